// Two sources: one that has the first SVID, one that picks by a hint; and what a service answers to whoever has it.
'use strict'

const { once } = require('node:events')
const tls = require('node:tls')
const { say } = require('./lines')
const { context, objection } = require('./peer')
const { X509Source } = require('./source')

const DEADLINE_MS = 20_000

class Sources {
  constructor(api) {
    this.api = api
    this.named = null
    this.onlyHint = null
  }

  // Says what they have now.
  async say(hint) {
    if (!this.named) {
      const byHint = (svids) => svids.find((svid) => svid.hint === hint) ?? svids[0]
      this.named = { default: new X509Source(this.api), picked: new X509Source(this.api, byHint) }
      await Promise.all(Object.values(this.named).map(begun))
    }
    say({ event: 'sources', default: one(this.named.default), picked: one(this.named.picked) })
  }

  // Says what a source has that takes nothing but the hint.
  async strict(hint) {
    if (!this.onlyHint) {
      this.onlyHint = new X509Source(this.api, (svids) => svids.find((svid) => svid.hint === hint))
      await begun(this.onlyHint)
    }
    say({ event: 'strict', has: this.onlyHint.revision && one(this.onlyHint) })
  }

  async reach({ port, server, with: name }) {
    try {
      say({ event: 'reached', answer: await get(port, this.named[name].revision, [server]) })
    } catch (error) {
      say({ event: 'reached', answer: null, error: `${error.code ? error.code + ' ' : ''}${error.message}` })
    }
  }
}

function begun(source) {
  const first = once(source, 'revision')
  source.watch()
  return first
}

const one = ({ revision }) => ({ spiffe_id: revision.spiffeId, hint: revision.hint, serial: revision.serial })

function get(port, revision, peerIds) {
  return new Promise((resolve, reject) => {
    const socket = tls.connect({
      host: '127.0.0.1',
      port,
      ...context(revision, peerIds),
      checkServerIdentity: (_host, certificate) => objection(certificate, revision, peerIds),
    })
    let answer = ''
    const end = () => {
      const [head, body] = answer.split('\r\n\r\n')
      if (head.startsWith('HTTP/1.1 200 ')) resolve(body)
      else reject(new Error(`answered \`${answer}\``))
    }
    socket.setTimeout(DEADLINE_MS, () => socket.destroy(new Error('took too long')))
    socket.on('secureConnect', () => socket.write('GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'))
    socket.on('data', (data) => {
      answer += data.toString()
    })
    socket.on('error', reject)
    socket.on('close', end)
  })
}

module.exports = { Sources }
