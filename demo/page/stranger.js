// A page of another site: it opens the socket it is told to, and says how that ended.

addEventListener("message", ({ data: { url, protocols }, source, origin }) => {
  const socket = new WebSocket(url, protocols);
  socket.onopen = () => socket.close();
  socket.onclose = ({ code, reason }) => source.postMessage({ stranger: location.origin, code, reason }, origin);
});
parent.postMessage({ stranger: location.origin, ready: true }, "*");
