// Nodes by the ids that a job has for them.

/** The pack's node that a job calls `id`: "7", or "3:7" for one inside the subgraph of node 3. */
export function findNode(graph, id) {
  let node = null;
  for (const part of String(id).split(":")) {
    graph = node ? node.subgraph : graph;
    node = graph?.getNodeById(Number(part)) ?? graph?.getNodeById(part);
    if (!node) return null;
  }
  // Another workflow may have been opened since, where the id is another node's.
  return /^hyv/i.test(node.comfyClass ?? "") ? node : null;
}
