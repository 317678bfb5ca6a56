// Which node of the open workflow a job means. Ids do not tell alone: workflows of one origin have the same ones.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { isOurs } from "./pack.js";

/** The workflows (tabs) that jobs were queued from, by the ids of the jobs. */
const workflows = new Map();

function openWorkflow() {
  return app.extensionManager.workflow.activeWorkflow;
}

// No event tells the id of a job together with its workflow; what runs may be another tab's than that which is open.
const { queuePrompt } = api;
api.queuePrompt = async function (...given) {
  const workflow = openWorkflow();
  const answer = await queuePrompt.apply(this, given);
  if (workflow && answer?.prompt_id) workflows.set(answer.prompt_id, new WeakRef(workflow));
  return answer;
};

for (const event of ["execution_success", "execution_error", "execution_interrupted"]) {
  // Later than all who listen to the same event.
  api.addEventListener(event, ({ detail }) => setTimeout(() => workflows.delete(detail.prompt_id)));
}

/** The pack's node that a job calls `id`; null if the job is of another workflow than the open one. */
export function nodeOf(job, id) {
  // A job that was queued before the page was loaded anew is of an unknown workflow: ids and classes must do.
  if (workflows.has(job) && workflows.get(job).deref() !== openWorkflow()) return null;
  return findNode(id);
}

/** The open workflow's node of this pack with an id: "7", or "3:7" for one inside the subgraph of node 3; or null. */
export function findNode(id) {
  let [graph, node] = [app.rootGraph ?? app.graph, null];
  for (const part of String(id).split(":")) {
    graph = node ? node.subgraph : graph;
    node = graph?.getNodeById(Number(part)) ?? graph?.getNodeById(part);
    if (!node) return null;
  }
  return isOurs(node) ? node : null;
}
