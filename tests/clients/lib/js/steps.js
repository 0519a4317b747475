// Prints the steps of a program as tests/clients/README.md asks. Knows no driver and no ORM.
'use strict';

const fs = require('node:fs');
const path = require('node:path');

// Libraries talk on stdout, which is for the steps.
console.log = console.info = console.error;

const refused = new Set();

/** The errors within an error: libraries wrap the driver's, each in its own way. */
function* layers(error) {
  for (let inner = error; inner; ) {
    yield inner;
    inner = inner.meta?.driverAdapterError ?? inner.parent ?? inner.original ?? inner.driverError ?? inner.cause;
  }
}

/** The SQLSTATE of an error: that of the innermost layer which has one. */
function sqlstate(error) {
  const codes = [...layers(error)].map((layer) => layer.originalCode ?? layer.code);
  return codes.filter((code) => typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code)).pop();
}

/** The message of the innermost error: the server's own words. */
function words(error) {
  const inner = [...layers(error)].pop();
  return String(inner.originalMessage ?? inner.message).split('\n')[0];
}

function print(name, result) {
  fs.writeSync(1, `${name}\t${String(result).replace(/\s+/g, ' ').trim()}\n`);
}

/** Runs one step; `after` names steps without which it has nothing to work on. */
async function step(name, work, ...after) {
  const missing = after.find((needed) => refused.has(needed));
  if (missing) {
    refused.add(name);
    return print(name, `SKIPPED after ${missing}`);
  }
  const started = Date.now();
  try {
    print(name, await work());
  } catch (error) {
    refused.add(name);
    const code = sqlstate(error);
    if (code === '0A000') print(name, `REFUSED 0A000 ${words(error)}`);
    else print(name, `ERROR ${code ?? '-----'} ${error.constructor.name} ${words(error)}`);
    if (code !== '0A000') console.error(name, error);
  }
  if (process.env.TIMES) console.error(name, Date.now() - started, 'ms');
}

/** The statements of lib/sql/steps.sql by step: `{text, params, save}`. */
function statements() {
  const steps = new Map();
  let list, params = [], save, text = [];
  const file = path.join(__dirname, '..', 'sql', 'steps.sql');
  for (const line of fs.readFileSync(file, 'utf8').split('\n')) {
    const directive = /^-- (step|params|save): (.*)$/.exec(line);
    if (directive) {
      if (directive[1] === 'step') steps.set(directive[2], (list = []));
      if (directive[1] === 'params') params = directive[2].split(', ');
      if (directive[1] === 'save') save = directive[2];
    } else if (line !== '' && !line.startsWith('--')) {
      text.push(line.replace(/;$/, ''));
      if (line.endsWith(';')) {
        list.push({ text: text.join('\n'), params, save });
        [params, save, text] = [[], undefined, []];
      }
    }
  }
  return steps;
}

module.exports = { step, print, sqlstate, words, statements };
