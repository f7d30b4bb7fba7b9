"""How clients speak of uploads in progress: tus, and the IETF's protocol."""
