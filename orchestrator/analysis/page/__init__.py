"""A sweep as one page of HTML that needs nothing else: what was asked, what came of it, and how to do it again."""
