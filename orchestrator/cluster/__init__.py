"""Ray's home: clusters, the workers on them, and sweeps sent to them as jobs. Nothing else imports Ray."""
