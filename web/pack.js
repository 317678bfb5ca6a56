// Which nodes are of this pack.

/** "hyvideo-studio" or however the pack's folder is called: ComfyUI serves what is in web/ under that name. */
const FOLDER = decodeURIComponent(new URL(".", import.meta.url).pathname.split("/").at(-2));

export function isOurs(node) {
  return node.constructor.nodeData?.python_module === `custom_nodes.${FOLDER}`;
}
