package main

import (
	"context"
	"time"

	debugv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/debug/v1"
	loggerv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/logger/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// operate is debug, logger and health as `spire-server healthcheck` and `logger` call them.
func operate(ctx context.Context, s *scene) {
	agent := s.join(ctx)
	s.create(ctx, newEntry("/web", agent.id, "unix:uid:1"))
	s.setBundle(ctx, "b.example")
	info := must(debugv1.NewDebugClient(s.local.conn).GetInfo(ctx, &debugv1.GetInfoRequest{}))
	same("debug: agents", info.AgentsCount, int32(1))
	same("debug: entries", info.EntriesCount, int32(1))
	same("debug: foreign bundles", info.FederatedBundlesCount, int32(1))
	check("debug: uptime", info.Uptime >= 0 && info.Uptime < 600, "%d s", info.Uptime)
	if check("debug: the chain of the server's SVID", len(info.SvidChain) >= 1, "%v", info.SvidChain) {
		same("debug: leaf first", info.SvidChain[0].Id, id("/spire/server"))
		check("debug: and until when", info.SvidChain[0].ExpiresAt > time.Now().Unix(), "%v", info.SvidChain[0])
	}

	logger := loggerv1.NewLoggerClient(s.local.conn)
	launch := must(logger.GetLogger(ctx, &loggerv1.GetLoggerRequest{}))
	same("logger: begins as launched", launch.CurrentLevel, launch.LaunchLevel)
	for _, level := range []types.LogLevel{
		types.LogLevel_ERROR, types.LogLevel_WARN, types.LogLevel_INFO, types.LogLevel_DEBUG, types.LogLevel_TRACE,
	} {
		set := must(logger.SetLogLevel(ctx, &loggerv1.SetLogLevelRequest{NewLevel: level}))
		same("logger: set", set.CurrentLevel, level)
		same("logger: the launch level stays", set.LaunchLevel, launch.LaunchLevel)
		same("logger: and is got", must(logger.GetLogger(ctx, &loggerv1.GetLoggerRequest{})).CurrentLevel, level)
	}
	reset := must(logger.ResetLogLevel(ctx, &loggerv1.ResetLogLevelRequest{}))
	same("logger: reset", reset.CurrentLevel, launch.LaunchLevel)
	for _, level := range []types.LogLevel{types.LogLevel_UNSPECIFIED, 99} {
		_, err := logger.SetLogLevel(ctx, &loggerv1.SetLogLevelRequest{NewLevel: level})
		ends("logger: a level that is none", err, codes.InvalidArgument)
	}

	remote := s.anonymous()
	for why, caller := range map[string]*caller{"locally": s.local, "over TCP": remote} {
		health := healthv1.NewHealthClient(caller.conn)
		answer, err := health.Check(ctx, &healthv1.HealthCheckRequest{})
		check("health: serving, asked "+why, err == nil && answer.Status == healthv1.HealthCheckResponse_SERVING, "%v %v", answer, err)
		_, err = health.Check(ctx, &healthv1.HealthCheckRequest{Service: "no.such.Service"})
		ends("health: a service that is not there, asked "+why, err, codes.NotFound)
		answer, err = health.Check(ctx, &healthv1.HealthCheckRequest{Service: "spire.api.server.entry.v1.Entry"})
		check("health: by service, asked "+why, err == nil && answer.Status == healthv1.HealthCheckResponse_SERVING, "%v %v", answer, err)
		stream, err := health.Watch(ctx, &healthv1.HealthCheckRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		ends("health: Watch is said to be missing, asked "+why, err, codes.Unimplemented)
	}
	_, err := healthv1.NewHealthClient(remote.conn).Check(ctx, &healthv1.HealthCheckRequest{Service: "spire.api.server.debug.v1.Debug"})
	ends("health: what is not on TCP has no health there", err, codes.NotFound)
}
