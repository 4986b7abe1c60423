"""A headless Chromium that tests open pages in, by Selenium; without these they are skipped."""

import json
import os
import shutil
from contextlib import contextmanager

import pytest

PATHS = {name: shutil.which(name) for name in ("chromium", "chromedriver")}


@contextmanager
def browser(*, scripts=True):
    """A browser, which may run no scripts."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    from selenium.webdriver.chrome.service import Service

    if missing := [name for name, path in PATHS.items() if path is None]:
        pytest.skip(f"needs {' and '.join(missing)}")
    options = webdriver.ChromeOptions()
    options.binary_location = PATHS["chromium"]
    options.add_argument("--headless=new")
    options.add_argument("--disable-dev-shm-usage")
    options.add_argument("--hide-scrollbars")
    options.add_argument("--window-size=1200,900")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    if not scripts:
        setting = {"profile.managed_default_content_settings.javascript": 2}
        options.add_experimental_option("prefs", setting)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(PATHS["chromedriver"]))
    try:
        yield driver
    finally:
        driver.quit()


@contextmanager
def seen_on(driver, width, dark=False):
    """Windows of that width, which are dark if the system says so."""
    sizes = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    try:
        yield
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def open_page(driver, path):
    """Open a file as a page, and forget what was said of others."""
    for log in ("browser", "performance"):
        driver.get_log(log)
    driver.get(path.as_uri())


def assert_quiet(driver):
    """The page has said nothing, and has asked for nothing but itself and what it has inside."""
    assert driver.get_log("browser") == []
    requested = [
        message["params"]["request"]["url"]
        for message in (
            json.loads(entry["message"])["message"] for entry in driver.get_log("performance")
        )
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert requested and all(url.startswith(("file:", "data:")) for url in requested), requested
    assert sum(url.startswith("file:") for url in requested) == 1
