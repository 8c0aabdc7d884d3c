// The newest X.509-SVID and bundles: a stream that is opened again whenever it ends.
'use strict'

const crypto = require('node:crypto')
const { EventEmitter } = require('node:events')
const { status } = require('@grpc/grpc-js')
const { certificates, serial, trustDomain } = require('./workload_api')

const FIRST_PAUSE_MS = 100
const LONGEST_PAUSE_MS = 3000

// Emits `revision` for each message, and `gave_up` when asking again would not help.
// `pick` chooses among the SVIDs of a message, by default the first; where it chooses none, there is no revision.
class X509Source extends EventEmitter {
  constructor(api, pick = ([first]) => first) {
    super()
    this.api = api
    this.pick = pick
    this.revision = null
    this.lastError = null
    this.pause = FIRST_PAUSE_MS
  }

  watch() {
    const stream = this.api.open('FetchX509SVID')
    let ended = false
    const again = (error) => {
      if (ended) return
      ended = true
      this.lastError = error
      if (error.code === status.INVALID_ARGUMENT) {
        this.emit('gave_up', error)
        return
      }
      setTimeout(() => this.watch(), this.pause)
      this.pause = Math.min(this.pause * 2, LONGEST_PAUSE_MS)
    }
    stream.on('data', (message) => {
      this.pause = FIRST_PAUSE_MS
      try {
        this.revision = revisionOf(message, this.pick)
      } catch (error) {
        again(error)
        stream.cancel()
        return
      }
      this.emit('revision', this.revision)
    })
    stream.on('error', again)
    stream.on('end', () => again(new Error('the stream ended')))
  }
}

function revisionOf(message, pick) {
  const svid = pick(message.svids)
  if (!svid) return null
  const chain = certificates(svid.x509_svid)
  const bundles = new Map([[trustDomain(svid.spiffe_id), certificates(svid.bundle)]])
  for (const [id, bundle] of Object.entries(message.federated_bundles)) {
    bundles.set(trustDomain(id), certificates(bundle))
  }
  const key = crypto.createPrivateKey({ key: svid.x509_svid_key, format: 'der', type: 'pkcs8' })
  if (!chain[0].checkPrivateKey(key)) throw new Error('the key is not that of the certificate')
  return {
    spiffeId: svid.spiffe_id,
    hint: svid.hint,
    serial: serial(chain[0]),
    certificates: chain.join(''),
    key: key.export({ format: 'pem', type: 'pkcs8' }),
    bundles,
  }
}

module.exports = { X509Source }
