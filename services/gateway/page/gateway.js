// How this page asks the gateway: with the key, if one was given, kept in this tab only.

const KEY = "sightlog.key";

export class KeyNeeded extends Error {}

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export const key = () => sessionStorage.getItem(KEY);
export const keepKey = (value) => sessionStorage.setItem(KEY, value);
export const forgetKey = () => sessionStorage.removeItem(KEY);

export async function ask(path, signal) {
  const headers = key() ? { Authorization: `Bearer ${key()}` } : {};
  const response = await fetch(path, { headers, signal, cache: "no-store" });
  if (response.status === 401 || (response.status === 403 && key())) throw new KeyNeeded();
  if (!response.ok) throw new Refused(response.status, await problemOf(response));
  return response;
}

async function problemOf(response) {
  try {
    const problem = await response.json();
    return problem.detail || problem.title || response.statusText;
  } catch {
    return response.statusText;
  }
}

// All pages of a list; each names the next one in its Link header.
export async function all(path) {
  const found = [];
  for (let next = path; next; ) {
    const response = await ask(next);
    found.push(...(await response.json()));
    const link = /<([^>]+)>;\s*rel="next"/.exec(response.headers.get("Link") || "");
    next = link && new URL(link[1], location.origin).pathname + new URL(link[1], location.origin).search;
  }
  return found;
}
