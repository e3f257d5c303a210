"""What holds for all tests."""

import signal

import hypothesis

# A shell starts what it runs in the background with Ctrl-C ignored, and processes that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# On a loaded machine Hypothesis takes slow drawing of inputs for a fault of the test.
hypothesis.settings.register_profile("patient", suppress_health_check=[hypothesis.HealthCheck.too_slow], deadline=None)
hypothesis.settings.load_profile("patient")
