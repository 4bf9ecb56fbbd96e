"""For tests of your flows: `orchestra_test_harness()`, and the pytest fixture `orchestra_db`."""
