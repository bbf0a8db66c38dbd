// Elements of the page: found by their id, or made with their attributes and children.

export const byId = (id) => document.getElementById(id);

const maker = (namespace) => (name, attributes = {}, ...children) => {
  const element = document.createElementNS(namespace, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};
export const html = maker(document.documentElement.namespaceURI);
export const svg = maker("http://www.w3.org/2000/svg");
