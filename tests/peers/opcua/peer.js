// An OPC UA client by node-opcua, driven by lines of JSON on standard input; each is answered by one line of JSON.
//
// {"op": "connect", "url": ...}                              -> {"namespaces": [...]}
// {"op": "read", "nodes": [...]}                              -> {"values": [...]}
// {"op": "browse", "node": ...}                               -> {"names": [[browse name, node id, type definition], ...]}
// {"op": "call", "object": ..., "method": ..., "inputs": [[data type, value], ...]} -> {"status": ..., "outputs": [...]}
// {"op": "listen", "node": ..., "type": ..., "fields": [[browse path, ...], ...]}    -> {}
// {"op": "events", "number": n}                               -> {"events": [[values], ...]}, when there are n
// {"op": "quit"}                                              -> the end
//
// A data type is a name of DataType (Int32, String, ...), or the node id of a structure, whose value is its fields.
"use strict";
const readline = require("node:readline");
// node-opcua has much to say on standard output, which belongs to the answers here.
const answerLine = process.stdout.write.bind(process.stdout);
process.stdout.write = process.stderr.write.bind(process.stderr);
const {
  OPCUAClient, ClientSubscription, ClientMonitoredItem, AttributeIds, DataType, Variant, VariantArrayType,
  constructEventFilter, coerceNodeId, ofType, TimestampsToReturn,
} = require("node-opcua-client");

let client, session, subscription;
const kept = [];
const items = [];

function plain(value) {
  if (value === null || value === undefined) return null;
  if (value instanceof Variant) return plain(value.value);
  if (value instanceof Date) return value.toISOString();
  if (Array.isArray(value)) {
    // node-opcua has a UInt64 as [high, low]
    return value.map(plain);
  }
  if (ArrayBuffer.isView(value)) return Array.from(value);
  if (value.constructor && ["NodeId", "QualifiedName"].includes(value.constructor.name)) return value.toString();
  if (typeof value === "object") {
    const found = {};
    for (const [name, each] of Object.entries(value.toJSON ? value.toJSON() : value)) found[name] = plain(each);
    return found;
  }
  return value;
}

function untangled(variant) {
  const value = variant.value;
  if (variant.dataType === DataType.UInt64 && variant.arrayType === VariantArrayType.Scalar && value !== null) {
    return String((BigInt(value[0]) << 32n) | BigInt(value[1]));
  }
  if (variant.dataType === DataType.Variant && Array.isArray(value)) return value.map(untangled);
  return plain(value);
}

async function input([type, value]) {
  if (type in DataType) {
    const isArray = Array.isArray(value);
    return { dataType: DataType[type], arrayType: isArray ? VariantArrayType.Array : VariantArrayType.Scalar, value };
  }
  return { dataType: DataType.ExtensionObject, value: await session.constructExtensionObject(coerceNodeId(type), value) };
}

const operations = {
  async connect({ url }) {
    client = OPCUAClient.create({ endpointMustExist: false, connectionStrategy: { maxRetry: 3 } });
    await client.connect(url);
    session = await client.createSession();
    return { namespaces: await session.readNamespaceArray() };
  },
  async read({ nodes }) {
    const found = await session.read(nodes.map((nodeId) => ({ nodeId, attributeId: AttributeIds.Value })));
    return { values: found.map((each) => untangled(each.value)) };
  },
  async browse({ node }) {
    const found = await session.browse({ nodeId: node, includeSubtypes: true, resultMask: 63,
      referenceTypeId: "HierarchicalReferences", browseDirection: 0 });
    return { names: found.references.map((each) =>
      [each.browseName.toString(), each.nodeId.toString(), each.typeDefinition ? each.typeDefinition.toString() : ""]) };
  },
  async call({ object, method, inputs }) {
    const inputArguments = await Promise.all(inputs.map(input));
    const found = await session.call({ objectId: object, methodId: method, inputArguments });
    return { status: found.statusCode.name, outputs: (found.outputArguments || []).map(untangled) };
  },
  async listen({ node, type, fields }) {
    if (!subscription) {
      subscription = ClientSubscription.create(session, { requestedPublishingInterval: 20, requestedLifetimeCount: 1000,
        requestedMaxKeepAliveCount: 20, maxNotificationsPerPublish: 1000, publishingEnabled: true });
      await new Promise((done) => subscription.once("started", done));
    }
    const filter = constructEventFilter(fields, ofType(type));
    const item = ClientMonitoredItem.create(subscription, { nodeId: node, attributeId: AttributeIds.EventNotifier },
      { samplingInterval: 0, discardOldest: true, queueSize: 2000, filter }, TimestampsToReturn.Both);
    item.on("changed", (values) => kept.push(values.map(untangled)));
    items.push(item);
    await new Promise((done, failed) => { item.once("initialized", done); item.once("err", failed); });
    return {};
  },
  async events({ number }) {
    while (kept.length < number) await new Promise((done) => setTimeout(done, 20));
    return { events: kept };
  },
};

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const said = JSON.parse(line);
    if (said.op === "quit") break;
    let answer;
    try {
      answer = await operations[said.op](said);
    } catch (error) {
      answer = { error: String(error && error.message ? error.message : error) };
    }
    answerLine(`${JSON.stringify(answer)}\n`);
  }
  if (subscription) await subscription.terminate().catch(() => {});
  if (session) await session.close().catch(() => {});
  if (client) await client.disconnect().catch(() => {});
  process.exit(0);
})();
