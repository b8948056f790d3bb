// The classics: each sets the form and presses the button, or asks a stranger to.

export const STORIES = [
  { title: "The bare 403", says: "The backend’s own origin check refuses the browser’s Origin. This one cost days.",
    who: "ada", socket: "/ws/strict-and-origin-forwarded" },
  { title: "… and fixed", says: "The same backend; the gateway judges the origin and leaves it out.",
    who: "ada", socket: "/ws/strict" },
  { title: "With a close code", says: "The bare 403 again, on a route that refuses with a code the page can read.",
    who: "ada", socket: "/ws/strict-and-origin-forwarded", told: true },
  { title: "Another site’s page", says: "It opens a socket in your name, with your valid token.", who: "ada", stranger: "/ws" },
  { title: "The token expires", says: "Bo’s socket closes after 15 s, unless you renew his token meanwhile.",
    who: "bo", socket: "/ws/ticker", told: false },
  { title: "A made-up identity", says: "Ada claims to be user 999, an admin.", who: "ada", request: "GET /api/hello", pretend: true },
  { title: "A forged token", says: "Eve signed an admin’s token with her own secret.", who: "eve", request: "GET /api/admin/report" },
  { title: "Admins only", says: "A valid token, but the wrong role.", who: "ada", request: "GET /api/admin/report" },
  { title: "A path with two readings", says: "An encoded slash, to reach the admin’s route another way.",
    who: "ada", request: "GET /api/..%2fapi/admin/report" },
  { title: "The backend is down", says: "The client learns little; the log has the cause.", who: "ada", request: "GET /api/down/hello" },
];
