//! JSON in one spelling only, so that the same value has the same hash everywhere.

use serde_json::Value;

/// `value` without blanks and with the keys of each object in the order of their bytes; strings escape what RFC 8785
/// escapes. Numbers are written as Rust writes them, so only integers have one spelling: records have no others.
pub fn canonical(value: &Value) -> String {
    let mut out = String::with_capacity(512); // most records are shorter
    write(value, &mut out);
    out
}

/// The canonical JSON of a string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("any text is a JSON string")
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by(|(a, _), (b, _)| a.as_bytes().cmp(b.as_bytes()));
            list(out, ['{', '}'], fields, |(name, value), out| {
                out.push_str(&quoted(name));
                out.push(':');
                write(value, out);
            });
        }
        Value::Array(items) => list(out, ['[', ']'], items, write),
        Value::String(text) => out.push_str(&quoted(text)),
        plain => out.push_str(&plain.to_string()),
    }
}

fn list<T>(out: &mut String, [open, close]: [char; 2], items: impl IntoIterator<Item = T>, each: fn(T, &mut String)) {
    out.push(open);
    for (position, item) in items.into_iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        each(item, out);
    }
    out.push(close);
}
