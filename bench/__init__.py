"""`make bench`: the service beside the physical limit, the article's way and its Node peers, in one run."""
