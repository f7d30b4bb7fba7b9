// The viewer that calls the API from its own page.

globalThis.SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#viewer",
  deepLinking: true,
  docExpansion: "list",
  validatorUrl: null, // which would send the document to a service of its makers
});
