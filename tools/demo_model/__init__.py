"""How the demo set in ``models/`` is made: a synthetic world, the trainings on it, and the judge of their results."""
