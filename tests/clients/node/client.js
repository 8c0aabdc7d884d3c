// The Workload API alone.
'use strict'

const { say } = require('./lines')
const { Sources } = require('./sources')
const { statusName, summary } = require('./workload_api')

const REQUESTS = {
  FetchJWTSVID: { audience: ['test'] },
  ValidateJWTSVID: { audience: 'test', svid: 'x.y.z' },
}

// Gives what obeys the commands, one after the other.
function start(api) {
  let before = Promise.resolve()
  const sources = new Sources(api)
  return (command) => {
    before = before.then(() => obey(api, sources, command))
  }
}

async function obey(api, sources, command) {
  if (command.fetch) await fetch(api, 'FetchX509SVID', 'true')
  if (command.watch) watch(api)
  if (command.raw) await fetch(api, command.raw.method, command.raw.header)
  if (command.call) await call(api, command.call)
  if (command.sources) await sources.say(command.sources)
  if (command.strict) await sources.strict(command.strict)
  if (command.reach) await sources.reach(command.reach)
}

async function fetch(api, method, header) {
  try {
    say({ event: 'fetched', ...summary(await api.first(method, {}, header)) })
  } catch (error) {
    say({ event: 'refused', code: statusName(error.code), message: error.details ?? error.message })
  }
}

async function call(api, method) {
  try {
    const { bundles } = summary(await api.first(method, REQUESTS[method] ?? {}))
    say({ event: 'answered', code: 'OK', bundles })
  } catch (error) {
    say({ event: 'answered', code: statusName(error.code), message: error.details ?? error.message })
  }
}

// grpc-js has no watch that comes again: the first end is the last.
function watch(api) {
  const stream = api.open('FetchX509SVID')
  let ended = false
  const end = (code) => {
    if (!ended) say({ event: 'ended', code })
    ended = true
  }
  stream.on('data', (message) => say({ event: 'update', ...summary(message) }))
  stream.on('error', (error) => end(statusName(error.code)))
  // Where a status other than OK follows, `error` comes as well.
  stream.on('status', (status) => end(statusName(status.code)))
}

module.exports = { start }
