"""A person with a browser: opens pages, follows redirects, keeps cookies, fills in forms. Nothing but the standard
library, and nothing that knows credbroker."""

import html.parser
import http.cookiejar
import urllib.error
import urllib.parse
import urllib.request


class Page(html.parser.HTMLParser):
    """What a person can do on a page: its forms with the buttons of each, its links, its text."""

    def __init__(self, url, status, body):
        super().__init__()
        self.url, self.status, self.body = url, status, body
        self.forms, self.links, self.text = [], {}, ""
        self._form = self._link = None
        self._buttons = []
        self._code, self.code = False, ""
        self.feed(body)
        self.close()
        for owner, name, value in self._buttons:
            for form in self.forms:
                if form["id"] == owner:
                    form["buttons"][name] = value

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "form":
            action = urllib.parse.urljoin(self.url, attrs.get("action") or "")
            self._form = {"id": attrs.get("id"), "action": action, "fields": {}, "buttons": {}}
            self.forms.append(self._form)
        elif tag == "input" and self._form and attrs.get("name"):
            self._form["fields"][attrs["name"]] = attrs.get("value") or ""
        elif tag == "button" and attrs.get("form") and attrs.get("name"):
            self._buttons.append((attrs["form"], attrs["name"], attrs.get("value") or ""))
        elif tag == "a":
            self._link = urllib.parse.urljoin(self.url, attrs.get("href") or "")
        self._code = tag == "code"

    def handle_endtag(self, tag):
        if tag == "form":
            self._form = None
        elif tag == "a":
            self._link = None
        self._code = False

    def handle_data(self, data):
        self.text += data
        if self._link:
            self.links[data.strip(" []\n")] = self._link
        if self._code:
            self.code += data


class Person:
    """One person with a browser of their own, who signs in as `name`."""

    def __init__(self, name):
        self.name = name
        self.visited = []
        person = self

        class Follow(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, request, *args):
                following = super().redirect_request(request, *args)
                if following is not None:
                    person.visited.append(following.full_url)
                return following

        # No proxy: everything is on this machine.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()),
            Follow(),
        )

    def open(self, url, form=None):
        self.visited.append(url)
        data = None if form is None else urllib.parse.urlencode(form).encode()
        try:
            with self._opener.open(url, data, timeout=20) as answer:
                return Page(answer.url, answer.status, answer.read().decode())
        except urllib.error.HTTPError as answer:
            with answer:
                return Page(answer.url, answer.code, answer.read().decode())

    def agree(self, url, user_code=None):
        """Opens the URL and says yes to everything, until there is nothing more to fill in. The last page."""
        return self._go_on(url, user_code, lambda page: None)

    def refuse(self, url, user_code=None):
        """The same, but cancels at the first page that lets one."""

        def cancel(page):
            if "Cancel" in page.links:
                return page.links["Cancel"], None
            for form in page.forms:
                if "abort" in form["buttons"]:
                    return form["action"], {**form["fields"], "abort": form["buttons"]["abort"]}
            return None

        return self._go_on(url, user_code, cancel)

    def _go_on(self, url, user_code, instead):
        mine = {"login": self.name, "password": "anything", "user_code": user_code}
        page = self.open(url)
        for _ in range(10):
            step = instead(page)
            if step:
                return self.open(*step)
            if not page.forms:
                return page
            form = page.forms[0]
            filled = {name: value or mine.get(name) or "" for name, value in form["fields"].items()}
            page = self.open(form["action"], filled)
        raise AssertionError(f"the pages never end; the last one says {page.text.split()}")
