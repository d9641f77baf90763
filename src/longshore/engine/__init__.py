"""Engine, Container and Process, with one module for each verb. No platform code."""
