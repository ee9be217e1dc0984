"""A browser for the pages of the OAuth issuer: keeps cookies, follows redirects, fills in forms; goes to loopback addresses only."""

import html.parser
import http.cookiejar
import ipaddress
import urllib.error
import urllib.parse
import urllib.request

from harness import Failed

# From the address that a person is given to the page that says it is done.
PAGES = 12
PAGE_BYTES = 1 << 20


def check_loopback(url):
    """Fails unless the URL is plain HTTP at a loopback address."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "http" or not ipaddress.ip_address(parts.hostname or "").is_loopback:
        raise Failed(f"the browser was sent to {parts.scheme}://{parts.netloc}")


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects as far as they stay on this machine."""

    def redirect_request(self, request, response, code, message, headers, new_url):
        check_loopback(new_url)
        return super().redirect_request(request, response, code, message, headers, new_url)


class Page(html.parser.HTMLParser):
    """What a person would see: forms with their fields, and links."""

    def __init__(self, response):
        super().__init__()
        self.url = response.geturl()
        self.status = response.status
        self.text = response.read(PAGE_BYTES).decode(errors="replace")
        self.forms = []
        self.links = []
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag == "form":
            self.forms.append({"id": found.get("id"), "action": urllib.parse.urljoin(self.url, found.get("action") or ""), "fields": {}})
        elif tag == "input" and self.forms and found.get("name"):
            self.forms[-1]["fields"][found["name"]] = found.get("value") or ""
        elif tag == "a" and found.get("href"):
            self.links.append(urllib.parse.urljoin(self.url, found["href"]))


class Browser:
    """One person's browser. Who that is turns up when a page asks for it."""

    def __init__(self, user):
        self.user = user
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), cookies, Redirects())

    def open(self, url, fields=None):
        """A page, also one that reports an error."""
        check_loopback(url)
        data = None if fields is None else urllib.parse.urlencode(fields).encode()
        try:
            with self.opener.open(url, data, timeout=10) as response:
                return Page(response)
        except urllib.error.HTTPError as response:
            with response:
                return Page(response)

    def decide(self, url, yes=True, user_code=None):
        """Goes where the person was sent, signs in, agrees or says no, and returns the page on which that ends."""
        page = self.open(url)
        for _ in range(PAGES):
            if not page.forms:
                return page
            form = page.forms[0]
            if not yes and (way_out := self.way_out(page, form)):
                return self.open(*way_out)
            page = self.open(form["action"], self.fill_in(form, user_code))
        raise Failed(f"after {PAGES} pages there is still one to answer: {urllib.parse.urlsplit(page.url).path}")

    @staticmethod
    def way_out(page, form):
        """Where "no" leads, with what it sends, if the page has it."""
        if form["id"] == "op.deviceConfirmForm":
            return form["action"], {**form["fields"], "abort": "yes"}
        return next(((link,) for link in page.links if link.endswith("/abort")), None)

    def fill_in(self, form, user_code):
        """The fields of a form as a person would send them."""
        fields = dict(form["fields"])
        if "login" in fields:
            fields |= {"login": self.user, "password": "any"}
        elif form["id"] == "op.deviceInputForm":
            if fields["user_code"] or user_code is None:
                raise Failed("the page does not take the user code")
            fields["user_code"] = user_code
        return fields
