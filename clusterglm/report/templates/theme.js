// The plots are drawn on canvases, which CSS does not reach: repaint their text and lines for a dark page.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paint = () => {
    const ink = dark.matches ? "#b9c1ce" : "#4b5363", grid = dark.matches ? "#2b323e" : "#e3e7ed", axis = dark.matches ? "#566070" : "#aeb5c0";
    const colours = {
      major_label_text_color: ink, axis_label_text_color: ink, label_text_color: ink,
      grid_line_color: grid, axis_line_color: axis, major_tick_line_color: axis,
    };
    for (const document of Bokeh.documents)
      for (const model of document.all_models ?? [])
        for (const [name, colour] of Object.entries(colours))
          if (name in model.properties) model.setv({[name]: colour});
  };
  dark.addEventListener("change", paint);
  const start = () => Bokeh.documents.length ? dark.matches && paint() : requestAnimationFrame(start);
  addEventListener("load", start);
})();
