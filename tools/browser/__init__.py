"""ComfyUI's page in a real Chromium: the browser, the frontends, and the page driven from Python."""
