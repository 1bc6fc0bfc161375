import BorgFormat
import Testing

@testable import NetServer

@Suite struct `The configuration` {
  private func problems(_ text: String) -> [String] {
    do {
      _ = try Configuration(parsing: text)
      return []
    } catch {
      return error.problems.map(\.description)
    }
  }

  @Test func `is read with every key`() throws {
    let text = """
      # a comment
      root = "/srv/borg"   # another
      credentials = '/etc/borg/passwords'
      umask = "027"
      threads = 24
      allow-plaintext = true
      repository-metrics-interval = "1h"
      confine = false

      [[listener]]
      address = "[::1]:8443"
      tls-certificate = "/c.pem"
      tls-key = "/k.pem"
      metrics = true

      [[listener]]
      socket = "/run/b.sock"
      mode = "600"
      group = "www-data"

      [[listener]]
      systemd = "borg"

      [limits]
      connections = 5
      connections-per-address = 2
      head-time = "500ms"
      body-time = 3
      answer-time = "2m"
      keep-alive-time = 4
      drain-time = 0
      body = "1.5G"
      failures = 3
      failure-time = "1m"

      [log]
      format = "json"
      level = "warning"
      access = false

      [proxy]
      trusted = ["10.0.0.0/8",  # over several lines
        "::1", "unix"]
      user-header = "X-User"
      address-header = "X-Forwarded-For"

      [anonymous]
      repositories = ["public/*"]
      permissions = "read-only"

      [user.alice]
      repositories = ["alice/*", "shared/photos"]
      permissions = "no-delete"
      metrics = true

      [user.carol]
      repositories = ["carol/*"]
      quota = "2T"

      [repository."alice/laptop"]
      quota = 1_000_000
      """
    let configuration = try Configuration(parsing: text)
    #expect(configuration.root == "/srv/borg")
    #expect(configuration.credentials == "/etc/borg/passwords")
    #expect(configuration.umask == 0o27)
    #expect(configuration.threads == 24)
    #expect(configuration.allowsPlaintext && !configuration.confines)
    #expect(configuration.repositoryMetricsInterval == 3600)
    #expect(
      configuration.listeners.map(\.place) == [
        .address("::1", port: 8443), .unix(path: "/run/b.sock", mode: 0o600, group: "www-data"),
        .systemd(name: "borg"),
      ])
    #expect(configuration.listeners[0].tls == .init(certificate: "/c.pem", key: "/k.pem"))
    #expect(configuration.listeners.map(\.metrics) == [true, false, false])
    #expect(configuration.limits.connections == 5 && configuration.limits.connectionsPerAddress == 2)
    #expect(configuration.limits.headTime == 0.5 && configuration.limits.answerTime == 120)
    #expect(configuration.limits.body == 1_500_000_000)
    #expect(configuration.log.json && configuration.log.level == .warning && !configuration.log.access)
    #expect(configuration.proxy.trusted.count == 2 && configuration.proxy.trustsUnix)
    #expect(configuration.proxy.userHeader == "x-user")
    #expect(configuration.anonymous?.permissions == .readOnly)
    let alice = try #require(configuration.users["alice"])
    #expect(alice.repositories.map(\.description) == ["alice/*", "shared/photos"])
    #expect(alice.permissions == .noDelete && alice.quota == nil && alice.metrics)
    #expect(configuration.users["carol"]?.quota == 2_000_000_000_000)
    let laptop = try #require(RepositoryName("alice/laptop"))
    #expect(configuration.repositoryQuotas[laptop] == 1_000_000)
  }

  static let base = "root = \"/r\"\n[[listener]]\naddress = \"127.0.0.1:1\"\n"

  @Test(arguments: [
    ("root = 5", "line 1, root: has to be an absolute path"),
    ("root = \"r\"", "line 1, root: has to be an absolute path"),
    ("rot = \"/r\"", "line 1, rot: there is no such key"),
    ("root = \"/r", "line 1: a text has to end on its line"),
    ("root = \"/r\"\nroot = \"/s\"", "line 2, root: is already given in line 1"),
    ("root \"/r\"", "line 1, root: has to be followed by ="),
    ("root = \"/r\" x", "line 1: there is more on the line"),
    ("root = /r", "line 1, root: has no value"),
    ("x = yes", "line 1, x: is yes, which is no number"),
    ("[user.a]\n[user.a]", "line 2: the table user.a is already in line 1"),
    ("[user.a\n", "line 1: the name of a table has to end in ]"),
    ("[users.a]", "line 1, users.a: there is no such table"),
    ("[listener]", "line 1, listener: there is no such table"),
    (base + "[user.a]\npermissions = \"al\"", "line 5, user.a.permissions: has to be one of \"all\""),
    (base + "[user.a]\nquota = \"5 X\"", "line 5, user.a.quota: has to be a number of bytes"),
    (base + "[user.a]\nrepositories = [\"../x\"]", "line 5, user.a.repositories: is no repository: ../x"),
    (base + "[user.a]\nrepositories = [\"a*\"]", "line 5, user.a.repositories: is no repository"),
    (
      base + "[user.a]\nrepositories = [\"metrics/x\"]",
      "user.a.repositories: begins with the reserved name metrics"
    ),
    (
      base + "[user.a]\nrepositories = [\"a\"]\n[user.b]\nrepositories = [\"*/*\"]",
      "overlap: one repository would lie inside"
    ),
    (base + "[[listener]]\n", "line 4, listener: a listener has one of address, socket and systemd"),
    (base + "[[listener]]\naddress = \"localhost:1\"", "line 5, listener.address: is not of the form"),
    (
      base + "[[listener]]\naddress = \"127.0.0.1:1\"\ntls-key = \"/k\"",
      "tls-certificate and tls-key belong together"
    ),
    (base + "[limits]\nhead-time = \"soon\"", "line 5, limits.head-time: has to be a number of seconds"),
    (base + "[proxy]\nuser-header = \"X-User\"", "proxy: trusted is missing"),
    (
      base + "[proxy]\ntrusted = [\"::1\"]\nuser-header = \"Host\"", "line 6, proxy.user-header: is no header"
    ),
    (base + "[repository.\"a/b/c\"]\nquota = 1", "nobody is granted this repository"),
    (base + "[user.a]\nrepositories = [\"a\"]", "there are users, and no credentials file"),
    ("", "root is missing"),
    ("root = \"/r\"", "there is no [[listener]]"),
  ])
  func `names line and key of what is wrong`(text: String, message: String) {
    let found = problems(text)
    #expect(found.contains { $0.contains(message) }, "\(found)")
  }

  @Test func `tells all that is wrong at once`() {
    #expect(
      problems(Self.base + "[limits]\nconnections = 0\nhead-time = \"x\"\n[log]\nnonsense = 1").count == 3)
  }

  @Test(arguments: ["0.0.0.0:80", "[::]:80", "192.0.2.1:80"])
  func `fails closed: without credentials only loopback is listened on`(address: String) {
    let text = "root = \"/r\"\n[[listener]]\naddress = \"\(address)\"\n"
    #expect(problems(text).contains { $0.contains("line 2") && $0.contains("no credentials file") })
    #expect(
      problems("credentials = \"/p\"\n" + text).contains {
        $0.contains("line 3") && $0.contains("without TLS")
      })
    #expect(problems("credentials = \"/p\"\nallow-plaintext = true\n" + text) == [])
  }

  @Test func `without credentials whoever connects has the repositories below the root`() throws {
    let configuration = try Configuration(parsing: Self.base)
    #expect(configuration.anonymous?.repositories.map(\.description) == ["*"])
    #expect(try Configuration(parsing: "credentials = \"/p\"\n" + Self.base).anonymous == nil)
  }

  @Test func `gives quotas to directories of users and to repositories`() throws {
    let text =
      "credentials = \"/p\"\n" + Self.base + """
        [user.alice]
        repositories = ["alice/*", "alice/laptop"]
        quota = 1000
        [user.laptop]
        repositories = ["alice/laptop"]
        quota = 500
        [user.desktop]
        repositories = ["alice/desktop"]
        [user.bob]
        repositories = ["bob/*"]
        [repository."alice/laptop"]
        quota = 700
        [repository."alice/desktop"]
        quota = 800
        """
    let configuration = try Configuration(parsing: text)
    func quota(_ name: String) -> UInt64? { RepositoryName(name).flatMap { configuration.quota(of: $0) } }
    #expect(quota("alice/laptop") == 500 && quota("alice/desktop") == 800 && quota("alice/phone") == nil)
    let directories = configuration.userDirectories.map { ($0.key.text, $0.value) }.sorted { $0.0 < $1.0 }
    #expect(directories.map(\.0) == ["alice", "bob"])
    #expect(directories.map(\.1) == [1000, nil])
    let found = problems(Self.base + "[user.a]\nrepositories = [\"*\"]\nquota = 1")
    #expect(found.contains { $0.contains("user.a.quota: needs") })
  }

  @Test func `says what the server would do`() throws {
    let text =
      "credentials = \"/p\"\n" + Self.base
      + "[user.a]\nrepositories = [\"a/*\"]\npermissions = \"no-delete\"\nquota = 5000"
    let summary = try Configuration(parsing: text).summary(users: ["b"])
    #expect(summary.contains("user a (has no password): no-delete in a/*, at most 5.00 kB"))
    #expect(summary.contains("user b: has a password and no table; nothing is granted"))
  }
}

@Suite struct `Names of repositories` {
  @Test(arguments: [
    "", "/", "a/", "/a", "a//b", ".", "..", "a/..", ".a", "a/.b", "a b", "a%2f", "a\\b", "ä", "a\0", "a.tmp",
    "b/a.hid", "a.del",
    "a?b", "a:b", "a/b/c/d/e/f/g/h/i",
  ])
  func `are refused if they could lead anywhere else`(text: String) { #expect(RepositoryName(text) == nil) }

  @Test(arguments: ["a", "A-1_x.y/b", "tmp/del"])
  func `are made of plain components`(text: String) { #expect(RepositoryName(text)?.text == text) }

  @Test(arguments: [
    ("alice/*", "/alice/laptop/packs/aa/x", "alice/laptop", "/packs/aa/x"),
    ("alice/*", "/alice/laptop/", "alice/laptop", "/"),
    ("alice/*", "/alice/laptop//", "alice/laptop", "//"),
    ("alice/*", "/alice/laptop", "alice/laptop", "/"),
    ("*", "/x/config/id", "x", "/config/id"),
    ("a/b/c", "/a/b/c/d", "a/b/c", "/d"),
  ])
  func `split a path where the pattern says`(pattern: String, path: String, name: String, rest: String) throws
  {
    let split = try #require(RepositoryPattern(pattern)?.split(path))
    #expect(split.name.text == name && split.rest == rest)
  }

  @Test(arguments: ["*/*", "alice/*", "*"])
  func `are none in paths that break the rules`(pattern: String) throws {
    let pattern = try #require(RepositoryPattern(pattern))
    let paths = [
      "", "/", "//", "/alice", "//alice/laptop/x", "/alice//laptop/x", "/../alice/x", "/alice/../bob/x",
      "/alice/..", "/%61lice/x",
      "/alice/%2e%2e/x", "/alice/.hidden/x", "/alice/x.tmp/y", "/bob", "alice/x",
    ]
    for path in paths where pattern.components.count == 2 || !(path.hasPrefix("/alice") || path == "/bob") {
      #expect(pattern.split(path) == nil, "\(path)")
    }
  }

  @Test func `never lie inside each other`() throws {
    func overlap(_ one: String, _ other: String) -> Bool? {
      guard let one = RepositoryPattern(one), let other = RepositoryPattern(other) else { return nil }
      return one.overlaps(other)
    }
    for (one, other) in [("a", "a/b"), ("*/*", "a"), ("*", "*/x"), ("a/*/c", "a/b")] {
      #expect(overlap(one, other) == true)
      #expect(overlap(other, one) == true)
    }
    for (one, other) in [("a", "b/c"), ("a/*", "*/b"), ("a/b", "c/d/e")] {
      #expect(overlap(one, other) == false)
    }
  }
}

@Suite struct `Ranges of addresses` {
  @Test(arguments: [
    ("10.0.0.0/8", "10.200.3.4", true), ("10.0.0.0/8", "11.0.0.1", false), ("192.0.2.1", "192.0.2.1", true),
    ("192.0.2.1", "192.0.2.2", false), ("2001:db8::/33", "2001:db8:7fff::1", true),
    ("2001:db8::/33", "2001:db8:8000::1", false),
    ("0.0.0.0/0", "::1", false), ("127.0.0.1", "::ffff:127.0.0.1", true),
  ])
  func `hold what they say`(range: String, address: String, holds: Bool) throws {
    let (range, address) = (try #require(AddressRange(range)), try #require(NetworkAddress(address)))
    #expect(range.contains(address) == holds)
  }

  @Test(arguments: ["", "x", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "::/129", "1.2.3", "localhost"])
  func `are not made of anything else`(text: String) { #expect(AddressRange(text) == nil) }
}
