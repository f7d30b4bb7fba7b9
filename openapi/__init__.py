"""The contract: the API's OpenAPI document."""
