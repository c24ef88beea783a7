// Browsers start no worker for a page that was opened from a file. There, search runs in a hidden
// frame instead: what one side posts, the other side gets a copy of as a message.
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(url) {
      const frame = document.createElement("iframe")
      frame.hidden = true
      this.inside = new Promise((resolve) => {
        frame.onload = () => {
          const { contentDocument, contentWindow } = frame
          contentWindow.postMessage = (data) => this.onmessage?.({ data: structuredClone(data) })
          const script = contentDocument.createElement("script")
          script.onload = () => resolve(contentWindow)
          script.onerror = (error) => this.onerror?.(error)
          script.src = url
          contentDocument.body.append(script)
        }
      })
      this.terminate = () => frame.remove()
      document.body.append(frame)
    }

    async postMessage(data) {
      const copy = structuredClone(data)
      const inside = await this.inside
      inside.dispatchEvent(new MessageEvent("message", { data: copy }))
    }
  }
}
