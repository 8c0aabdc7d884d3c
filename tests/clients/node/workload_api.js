// The Workload API over grpc-js, and what its messages hold.
'use strict'

const crypto = require('node:crypto')
const path = require('node:path')
const grpc = require('@grpc/grpc-js')
const protoLoader = require('@grpc/proto-loader')

const DEFINITION = path.join(__dirname, '../../../proto/spiffe/workload/workloadapi.proto')
const SECURITY_HEADER = 'workload.spiffe.io'
const SERVICE = 'SpiffeWorkloadAPI'
const UNARY = ['FetchJWTSVID', 'ValidateJWTSVID']

const loaded = grpc.loadPackageDefinition(protoLoader.loadSync(DEFINITION, { keepCase: true, defaults: true }))
const methods = loaded[SERVICE].service

const STATUS_NAMES = new Map(Object.entries(grpc.status).map(([name, code]) => [code, name]))
const statusName = (code) => STATUS_NAMES.get(code) ?? 'UNKNOWN'

class WorkloadApi {
  constructor(endpoint) {
    this.grpc = new grpc.Client(endpoint, grpc.credentials.createInsecure(), {
      // The agent is on the same machine: it is back within a second or two, if at all.
      'grpc.initial_reconnect_backoff_ms': 100,
      'grpc.max_reconnect_backoff_ms': 2000,
    })
  }

  // Opens a stream of `method`. `header` is the value of the security header, null for none. A call with one answer is
  // on the wire a stream with one message.
  open(method, request = {}, header = 'true') {
    const metadata = new grpc.Metadata()
    if (header !== null) metadata.set(SECURITY_HEADER, header)
    const known = methods[method]
    const serialize = known ? known.requestSerialize : () => Buffer.alloc(0)
    const deserialize = known ? known.responseDeserialize : (bytes) => bytes
    return this.grpc.makeServerStreamRequest(`/${SERVICE}/${method}`, serialize, deserialize, request, metadata, {})
  }

  // The first message of `method`. Rejects with what has a gRPC `code`.
  first(method, request = {}, header = 'true') {
    return new Promise((resolve, reject) => {
      const stream = this.open(method, request, header)
      const deadline = setTimeout(() => stream.cancel(), 20_000)
      let answer
      stream.on('data', (message) => {
        answer ??= message
        // A unary call ends by itself, with the status that is part of its answer.
        if (!UNARY.includes(method)) stream.cancel()
      })
      stream.on('error', (error) => {
        clearTimeout(deadline)
        if (answer && error.code === grpc.status.CANCELLED) resolve(answer)
        else reject(error)
      })
      stream.on('end', () => {
        clearTimeout(deadline)
        if (answer) resolve(answer)
        // Where a status other than OK follows, `error` comes as well, and first.
        else setImmediate(() => reject(Object.assign(new Error('the stream ended without a message'), { code: 0 })))
      })
    })
  }
}

// DER values one after the other.
function splitDer(bytes) {
  const values = []
  for (let at = 0; at < bytes.length; ) {
    let head = 2
    let size = bytes[at + 1]
    if (size > 0x80) {
      const octets = size - 0x80
      size = bytes.readUIntBE(at + 2, octets)
      head += octets
    }
    values.push(bytes.subarray(at, at + head + size))
    at += head + size
  }
  return values
}

const certificates = (bytes) => splitDer(bytes).map((der) => new crypto.X509Certificate(der))

const serial = (certificate) => certificate.serialNumber.toLowerCase().replace(/^0+(?=.)/, '')

const trustDomain = (spiffeId) => new URL(spiffeId).host

// What an event says of a message of any of the methods.
function summary(message) {
  const svids = (message.svids ?? []).map((svid) => ({
    spiffe_id: svid.spiffe_id,
    hint: svid.hint,
    serial: svid.x509_svid ? serial(certificates(svid.x509_svid)[0]) : null,
  }))
  const named = Object.keys(message.bundles ?? message.federated_bundles ?? {})
  const own = (message.svids ?? []).filter((svid) => svid.bundle?.length).map((svid) => svid.spiffe_id)
  const bundles = [...new Set([...own, ...named].map((id) => `spiffe://${trustDomain(id)}`))]
  return { svids, bundles }
}

module.exports = { WorkloadApi, certificates, serial, statusName, summary, trustDomain }
