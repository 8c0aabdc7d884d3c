// Lines of JSON: commands in, events out.
'use strict'

const readline = require('node:readline')

function say(event) {
  process.stdout.write(JSON.stringify(event) + '\n')
}

// Hands each command to `obey`; the program ends with its input.
function onCommands(obey) {
  const lines = readline.createInterface({ input: process.stdin })
  lines.on('line', (line) => obey(JSON.parse(line)))
  lines.on('close', () => process.exit(0))
}

module.exports = { onCommands, say }
