package main

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"sync"

	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

var output sync.Mutex

func say(event map[string]any) {
	line, err := json.Marshal(event)
	if err != nil {
		panic(err)
	}
	output.Lock()
	defer output.Unlock()
	fmt.Fprintf(os.Stdout, "%s\n", line)
}

// check says whether row holds, and what was seen.
func check(row string, ok bool, format string, seen ...any) bool {
	say(map[string]any{"event": "check", "row": row, "ok": ok, "seen": fmt.Sprintf(format, seen...)})
	return ok
}

func figure(name string, value any) {
	say(map[string]any{"event": "figure", "name": name, "value": value})
}

// same checks that two values are equal; messages by their content.
func same(row string, seen, wanted any) bool {
	equal := reflect.DeepEqual(seen, wanted)
	if left, ok := seen.(proto.Message); ok {
		if right, ok := wanted.(proto.Message); ok {
			equal = proto.Equal(left, right)
		}
	}
	return check(row, equal, "%v, wanted %v", seen, wanted)
}

// ends checks the code that a call ended with.
func ends(row string, err error, wanted codes.Code) bool {
	return check(row, status.Code(err) == wanted, "%v: %q, wanted %v", status.Code(err), message(err), wanted)
}

// item checks the status of one result of a batch; none is as wrong as another code.
func item(row string, seen *types.Status, wanted codes.Code) bool {
	if seen == nil {
		return check(row, false, "no status")
	}
	return check(row, codes.Code(seen.Code) == wanted, "%v: %q, wanted %v", codes.Code(seen.Code), seen.Message, wanted)
}

func codesOf(err error) codes.Code {
	return status.Code(err)
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return status.Convert(err).Message()
}

// refusal is the reason that a refused agent decides on, as spire-agent reads it; UNKNOWN if there is none.
func refusal(err error) types.PermissionDeniedDetails_Reason {
	for _, detail := range status.Convert(err).Details() {
		if detail, ok := detail.(*types.PermissionDeniedDetails); ok {
			return detail.Reason
		}
	}
	return types.PermissionDeniedDetails_UNKNOWN
}

// refused checks that a call was refused for the reason that makes an agent do the right thing.
func refused(row string, err error, reason types.PermissionDeniedDetails_Reason) bool {
	return check(row, status.Code(err) == codes.PermissionDenied && refusal(err) == reason,
		"%v %v: %q, wanted %v", status.Code(err), refusal(err), message(err), reason)
}

// must gives the answer of a call that a section cannot go on without.
func must[T any](answer T, err error) T {
	if err != nil {
		_, file, line, _ := runtime.Caller(1)
		panic(fmt.Sprintf("%s:%d: %v", file, line, err))
	}
	return answer
}
