// Search on pages that are opened from a disk: browsers start no worker there, so its script runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.srcdoc = `<script>postMessage = data => frameElement.answer(data);</script><script src="${url}"></script>`;
      frame.answer = data => this.dispatchEvent(new MessageEvent("message", { data }));
      this.ready = new Promise(done => frame.addEventListener("load", () => done(frame.contentWindow)));
      document.body.append(frame);
    }

    postMessage(data) {
      this.ready.then(page => page.dispatchEvent(new page.MessageEvent("message", { data })));
    }
  };
}
