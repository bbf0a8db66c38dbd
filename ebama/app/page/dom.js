// Elements of the page, by their id.

export const byId = (id) => document.getElementById(id);
