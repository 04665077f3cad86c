"""From a checked body to the call that it asks for, and how that call is to be answered."""
