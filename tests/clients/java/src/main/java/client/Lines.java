package client;

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.Consumer;

/** Lines of JSON: commands in, events out. */
final class Lines {
    private static final Gson GSON = new GsonBuilder().serializeNulls().create();

    private Lines() {}

    /** One event; then names and values of its members by turns. */
    static void say(String event, Object... members) {
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("event", event);
        for (int i = 0; i < members.length; i += 2) {
            line.put((String) members[i], members[i + 1]);
        }
        synchronized (Lines.class) {
            System.out.println(GSON.toJson(line));
            System.out.flush();
        }
    }

    /** Hands over each command until the input ends. */
    static void commands(Consumer<JsonObject> obey) throws IOException {
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            obey.accept(JsonParser.parseString(line).getAsJsonObject());
        }
    }

    /** An error with all that caused it. */
    static String explain(Throwable error) {
        StringBuilder text = new StringBuilder();
        for (Throwable at = error; at != null; at = at.getCause()) {
            text.append(text.length() == 0 ? "" : ": ").append(at);
        }
        return text.toString();
    }
}
