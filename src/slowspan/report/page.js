"use strict";
(() => {
  const element = document.getElementById("call-tree");
  const title = document.title;
  try {
    // The view asks for a web font and sets an icon; the policy forbids the first, so it need not be tried.
    document.head.appendChild = (node) => node;
    const data = JSON.parse(document.getElementById("call-tree-data").textContent);
    pyinstrumentHTMLRenderer.render(element, data);
    // Calls are added up, so what the view calls a timeline has no order in time: it is a flame graph.
    for (const label of element.querySelectorAll("label")) {
      for (const node of label.childNodes) {
        if (node.nodeType === Node.TEXT_NODE && node.data.trim() === "Timeline") node.data = " Flame graph ";
      }
    }
  } catch (error) {
    console.error(error);
    element.hidden = true;
    document.getElementById("call-tree-error").hidden = false;
  } finally {
    delete document.head.appendChild;
    document.title = title;
  }
})();
