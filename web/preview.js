// Live previews: asks the server for them, and hands what comes to the panel of the node that it is about.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { nodeOf } from "./jobs.js";
import { panelOf } from "./preview/panel.js";

const SETTING = "HyVideoStudio.LivePreview";

/** The client id that the server knows our choice of. */
let known = null;

/** Tell the server that this client has the panel, and which previews its user wants. */
async function tell(method) {
  if (!api.clientId) return; // Not connected yet; the first status tells the id.
  known = api.clientId;
  const answer = await api.fetchApi("/hyvideo/preview", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ client_id: known, method }),
  });
  if (!answer.ok) console.warn("HyVideo Studio: no previews, since the server answered", await answer.text());
}

function tellAgain() {
  return tell(app.extensionManager.setting.get(SETTING));
}

/** The panel that an event of the server is about; null if its job is not of the workflow that is open. */
function panelFor({ node: id, prompt_id: job }) {
  const node = nodeOf(job, id);
  return node && panelOf(node, job);
}

app.registerExtension({
  name: "HyVideoStudio.Preview",
  settings: [
    {
      id: SETTING,
      category: ["HyVideo Studio", "Execution", "Live preview"],
      name: "HyVideo Studio: live preview",
      tooltip:
        "The clip that is coming, moving, on the sampler's node. TAEHV is finer and needs taehv.safetensors in " +
        "models/vae_approx; auto takes it if it is there.",
      type: "combo",
      options: [
        { value: "auto", text: "auto" },
        { value: "latent2rgb", text: "latent-to-RGB" },
        { value: "taehv", text: "TAEHV" },
        { value: "off", text: "off" },
      ],
      defaultValue: "auto",
      onChange: tell,
    },
  ],
  setup() {
    api.addEventListener("status", () => {
      if (api.clientId !== known) tellAgain();
    });
    // A server that was started anew knows nobody.
    api.addEventListener("reconnected", tellAgain);
    api.addEventListener("hyvideo.progress", ({ detail }) => panelFor(detail)?.tell(detail));
    api.addEventListener("hyvideo.preview", ({ detail }) => panelFor(detail)?.show(detail));
    if (api.clientId !== known) tellAgain();
  },
});
