// A workload as its authors would write it where no SPIFFE library is at hand: grpc-js over the published service
// definition, and TLS of the platform. Nothing of ours but the definition itself.
//
// tests/clients/README.md says what it understands and what it says.
'use strict'

// Everything is loaded before we are another user, who may not read the folder of these files.
const { onCommands, say } = require('./lines')
const { WorkloadApi } = require('./workload_api')
const client = require('./client')
const peer = require('./peer')

function main([role, endpoint, uid, peerIds]) {
  process.setgroups([])
  process.setgid(Number(uid))
  process.setuid(Number(uid))
  const api = new WorkloadApi(endpoint)
  if (role === 'client') {
    onCommands(client.start(api))
  } else if (role === 'peer' && peerIds) {
    onCommands(peer.start(api, peerIds.split(',')))
  } else {
    say({ event: 'no_source', error: 'arguments: peer ENDPOINT UID PEER_ID[,PEER_ID…] | client ENDPOINT UID' })
    process.exit(2)
  }
}

main(process.argv.slice(2))
