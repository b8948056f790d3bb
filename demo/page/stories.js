// The classics: each sets the form and presses the button, or asks a stranger to.

export const STORIES = [
  { title: "The bare 403", says: "The backend’s own origin check refuses the browser’s Origin. Days were lost to this one.",
    who: "ada", socket: "/ws/strict-and-origin-forwarded" },
  { title: "… and mended", says: "The same backend; the gateway judges the origin and leaves it out.",
    who: "ada", socket: "/ws/strict" },
  { title: "Told by a close code", says: "The bare 403 again, on a route that refuses with a code the page can read.",
    who: "ada", socket: "/ws/strict-and-origin-forwarded", told: true },
  { title: "Another site’s page", says: "It opens a socket in your name, with your good token.", who: "ada", stranger: "/ws" },
  { title: "The token ends", says: "Bo’s socket closes after 15 s, unless you renew his token meanwhile.",
    who: "bo", socket: "/ws/ticker", told: false },
  { title: "Identity made up", says: "Ada claims to be user 999, an admin.", who: "ada", request: "GET /api/hello", pretend: true },
  { title: "A forged token", says: "Eve signed an admin’s token with a secret of her own.", who: "eve", request: "GET /api/admin/report" },
  { title: "Admins only", says: "A good token, the wrong role.", who: "ada", request: "GET /api/admin/report" },
  { title: "A path with two readings", says: "An encoded slash, to reach the admin’s route by another door.",
    who: "ada", request: "GET /api/..%2fapi/admin/report" },
  { title: "The backend is down", says: "The client learns little; the log has the cause.", who: "ada", request: "GET /api/down/hello" },
];
