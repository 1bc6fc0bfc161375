import BorgFormat
import Disk
import DiskSimulation
import Synchronization
import Testing

@testable import NetServer

/// Everything here is about sockets and waits: one test at a time leaves the machine to the others.
@Suite(.serialized) struct `A network server` {
  static let twoUsers = """
    [user.alice]
    repositories = ["alice/*"]
    [user.backup]
    repositories = ["alice/laptop"]
    permissions = "read-only"
    """
  static let logins = [Bed.Login(user: "alice", password: "a:1"), Bed.Login(user: "backup", password: "b2")]
  static let alice = ("alice", "a:1")

  // MARK: Requests

  @Test func `stores and loads over one connection`() throws {
    let bed = try Bed()
    let client = try bed.client()
    for size in [0, 1, 1000, 65536, 65537, 300_000] {
      let body = (0..<size).map { UInt8(truncatingIfNeeded: $0) }
      #expect(client.call("POST", "/r/x\(size)", body)?.text == "\(size)")
      #expect(client.call("GET", "/r/x\(size)")?.body == body)
      let head = try #require(client.call("HEAD", "/r/x\(size)"))
      #expect(head.status == 200 && head.fields["content-length"] == "\(size)" && head.body.isEmpty)
    }
    #expect(client.call("PUT", "/r/x")?.status == 501)
    #expect(client.call("GET", "/r/none")?.status == 404)
  }

  @Test func `answers pipelined requests in their order`() throws {
    let bed = try Bed()
    let client = try bed.client()
    let requests = (0..<50).map {
      Client.request("POST", "/r/x\($0)", length: $0) + String(repeating: "b", count: $0)
    }
    client.send(requests.joined())
    for number in 0..<50 { #expect(client.reply()?.text == "\(number)") }
    client.send((0..<50).map { Client.request("GET", "/r/x\($0)") }.joined())
    for number in 0..<50 { #expect(client.reply()?.body.count == number) }
  }

  @Test func `works on one request of a connection at a time`() throws {
    let bed = try Bed()
    let client = try bed.client()
    client.send(Client.request("POST", "/r/wait") + Client.request("GET", "/r/x"))
    #expect(bed.events.state.wait(timeout: .seconds(5)) { $0.begun == 1 ? () : nil } != nil)
    Host.pause(.milliseconds(50))
    #expect(bed.events.state.withLock { $0.begun } == 1)
    bed.events.openGate()
    #expect(client.reply()?.status == 200)
    #expect(client.reply()?.status == 404)
  }

  @Test func `streams large answers and large bodies`() throws {
    let bed = try Bed()
    let client = try bed.client()
    #expect(client.call("GET", "/r/zeros/20000000")?.body.count == 20_000_000)
    #expect(client.call("POST", "/r/large", [UInt8](repeating: 7, count: 20_000_000))?.text == "20000000")
    #expect(client.call("HEAD", "/r/zeros/20000000")?.fields["content-length"] == "20000000")
    #expect(client.call("GET", "/r/x")?.status == 404)
  }

  @Test func `takes no more of a body than it can pass on`() throws {
    let bed = try Bed()
    let client = try bed.client()
    client.send(Client.request("POST", "/r/slow", length: 64 << 20))
    // The worker waits at its first piece; so the client has to wait as well, once the buffers of the system are full.
    var sent = 0
    let block = [UInt8](repeating: 1, count: 1 << 20)
    let sender = Monitor(0)
    nonisolated(unsafe) let socket = client
    let thread = WorkerThread {
      for _ in 0..<64 where unsafe socket.send(block) { sender.update { $0 += 1 } }
    }
    Host.pause(.milliseconds(300))
    sent = sender.withLock { $0 }
    #expect(sent < 20, "\(sent) MiB were taken")
    bed.events.openGate()
    thread?.join()
    #expect(client.reply()?.text == "\(64 << 20)")
  }

  @Test func `gives up what a client does not finish`() throws {
    let bed = try Bed()
    do {
      let client = try bed.client()
      client.send(Client.request("POST", "/r/x", length: 200_000))
      client.send([UInt8](repeating: 1, count: 100_000))
      #expect(bed.events.state.wait(timeout: .seconds(5)) { $0.begun == 1 ? () : nil } != nil)
      client.endInput()
      #expect(client.isClosed())
    }
    #expect(bed.events.state.wait(timeout: .seconds(5)) { $0.abandoned == 1 ? () : nil } != nil)
  }

  @Test func `answers a client that has closed its side`() throws {
    let bed = try Bed()
    let client = try bed.client()
    client.send(Client.request("POST", "/r/x", length: 3) + "abc")
    client.endInput()
    #expect(client.reply()?.text == "3")
    #expect(client.isClosed())
  }

  @Test func `lets a client send its body once the head is accepted`() throws {
    let bed = try Bed(Self.twoUsers, logins: Self.logins)
    let client = try bed.client()
    client.send(
      Client.request("POST", "/alice/x/y", length: 3, login: Self.alice, fields: ["Expect: 100-continue"]))
    #expect(client.reply()?.status == 100)
    client.send("abc")
    #expect(client.reply()?.text == "3")
    let other = try bed.client()
    other.send(
      Client.request("POST", "/bob/x/y", length: 3, login: Self.alice, fields: ["Expect: 100-continue"]))
    let reply = try #require(other.reply())
    #expect(reply.status == 403 && reply.fields["connection"] == "close")
    #expect(other.isClosed())
  }

  @Test func `ends a connection of HTTP 1.0, unless it is to be kept`() throws {
    let bed = try Bed()
    let client = try bed.client()
    let accept = "Accept: application/vnd.x.borgstore.rest.v1\r\n"
    client.send("GET /r/x HTTP/1.0\r\nConnection: keep-alive\r\n\(accept)\r\n")
    #expect(client.reply()?.fields["connection"] == "keep-alive")
    client.send("GET /r/x HTTP/1.0\r\n\(accept)\r\n")
    #expect(client.reply()?.fields["connection"] == "close")
    #expect(client.isClosed())
  }

  @Test(arguments: [
    (
      "POST /r/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET /r/evil HTTP/1.1\r\n\r\n",
      411
    ),
    (
      "POST /r/x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhelloGET /r/evil HTTP/1.1\r\n\r\n",
      400
    ),
    ("GET /r/x HTTP/1.1\nHost: h\n\n", 400),
    ("GET /" + String(repeating: "x", count: 20_000) + " HTTP/1.1\r\n\r\n", 414),
    ("GET / HTTP/1.1\r\n" + String(repeating: "X: y\r\n", count: 200) + "\r\n", 431),
    ("garbage\r\n\r\n", 400),
  ])
  func `answers what is no request once, and hangs up`(text: String, status: Int) throws {
    let bed = try Bed()
    let client = try bed.client()
    client.send(text)
    let reply = try #require(client.reply())
    #expect(reply.status == status && reply.fields["connection"] == "close")
    #expect(client.reply() == nil)
    #expect(bed.events.state.withLock { $0.begun } == 0)
  }

  @Test func `keeps the stream in step whatever it refuses`() throws {
    let bed = try Bed(Self.twoUsers, logins: Self.logins)
    let client = try bed.client()
    let body = Array("GET /alice/x/evil HTTP/1.1\r\nHost: h\r\n\r\n".utf8)
    #expect(client.call("POST", "/alice/x/y", body)?.status == 401)
    #expect(client.call("POST", "/bob/x/y", body, login: Self.alice)?.status == 403)
    client.send(
      "POST /alice/x/y HTTP/1.1\r\nHost: h\r\nAccept: */*\r\nContent-Length: \(body.count)\r\n\r\n"
        + String(decoding: body, as: UTF8.self))
    #expect(client.reply()?.status == 406)
    #expect(client.call("POST", "/alice/x/y", body, login: Self.alice)?.text == "\(body.count)")
    #expect(bed.events.state.withLock { $0.begun } == 1)
  }

  // MARK: Users

  @Test func `refuses in the original's words who has no right password`() throws {
    let bed = try Bed(Self.twoUsers, logins: Self.logins)
    let client = try bed.client()
    for login in [nil, ("alice", "wrong"), ("nobody", "a:1"), ("alice", "")] {
      let reply = try #require(client.call("GET", "/alice/x/y", login: login))
      #expect(reply.status == 401 && reply.text == "Unauthorized")
      #expect(reply.fields["www-authenticate"] == "Basic realm=\"BorgStore REST Server\"")
      #expect(reply.fields["content-type"] == nil)
    }
    #expect(client.call("GET", "/alice/x/y", login: Self.alice)?.status == 404)
    #expect(bed.logs("login", "user=alice"))
    #expect(bed.logs("refused", "user=nobody", "wrong user or password"))
    #expect(!bed.logText.contains("a:1") && !bed.logText.contains("YWxpY2U"))
  }

  @Test func `R12 several users have one repository in different modes`() throws {
    let bed = try Bed(Self.twoUsers, logins: Self.logins)
    let client = try bed.client()
    #expect(client.call("POST", "/alice/laptop/x", [1], login: Self.alice)?.status == 200)
    #expect(client.call("GET", "/alice/laptop/x", login: ("backup", "b2"))?.body == [1])
    #expect(client.call("POST", "/alice/laptop/x", [2], login: ("backup", "b2"))?.status == 403)
    #expect(client.call("GET", "/alice/laptop/x", login: Self.alice)?.body == [1])
  }

  @Test func `R12 failures are throttled, and nobody is locked out by them`() throws {
    let bed = try Bed(Self.twoUsers + "\n[limits]\nfailures = 3\nfailure-time = 30", logins: Self.logins)
    let client = try bed.client()
    #expect(client.call("GET", "/alice/x/y", login: Self.alice)?.status == 404)
    let statuses = (0..<5).map { client.call("GET", "/alice/x/y", login: ("alice", "no\($0)"))?.status }
    #expect(statuses == [401, 401, 401, 429, 429])
    let reply = try #require(client.call("GET", "/alice/x/y", login: ("backup", "b2")))
    #expect(reply.status == 429 && (1...30).contains(Int(reply.fields["retry-after"] ?? "") ?? 0))
    #expect(client.call("GET", "/alice/x/y", login: Self.alice)?.status == 404)
    let elsewhere = try Client(port: bed.port(), from: "127.0.0.2")
    #expect(elsewhere.call("GET", "/alice/laptop/y", login: ("backup", "b2"))?.status == 404)
  }

  @Test func `R12 no password is ever on a command line, and none in the clear is taken from a file`() throws
  {
    #expect(throws: NetworkServer.Failure.self) {
      _ = try Bed("credentials = \"@/plain\"", files: ["plain": "alice:secret\n"])
    }
  }

  @Test func `reloads what has changed, and keeps what was right when the new is wrong`() throws {
    let bed = try Bed(Self.twoUsers, logins: Self.logins)
    let client = try bed.client()
    #expect(client.call("GET", "/alice/x/y", login: Self.alice)?.status == 404)
    try bed.write([Bed.Login(user: "alice", password: "new"), Bed.Login(user: "carol", password: "c")])
    bed.server.tick()
    #expect(client.call("GET", "/alice/x/y", login: Self.alice)?.status == 401)
    #expect(client.call("GET", "/alice/x/y", login: ("alice", "new"))?.status == 404)
    #expect(client.call("GET", "/alice/x/y", login: ("carol", "c"))?.status == 403)
    try bed.write("alice:plain\n", to: "passwords")
    bed.server.reload()
    #expect(bed.logs("error", "credentials are left as they were", "line 1, alice"))
    #expect(client.call("GET", "/alice/x/y", login: ("alice", "new"))?.status == 404)
    let file =
      "root = \"\(bed.directory.path.text)\"\ncredentials = \"\(bed.directory.path.text)/passwords\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n"
    try bed.write([Bed.Login(user: "carol", password: "c")])
    try bed.write(file + "[user.carol]\nrepositories = [\"carol\"]\n", to: "listen.toml")
    bed.server.tick()
    #expect(client.call("GET", "/carol/y", login: ("carol", "c"))?.status == 404)
    try bed.write("nonsense", to: "listen.toml")
    bed.server.tick()
    #expect(bed.logs("error", "configuration is left as it was", "line 1"))
    #expect(client.call("GET", "/carol/y", login: ("carol", "c"))?.status == 404)
  }

  @Test func `believes headers of trusted proxies only`() throws {
    let text =
      Self.twoUsers
      + "\n[proxy]\nuser-header = \"X-User\"\naddress-header = \"X-Forwarded-For\"\ntrusted = [\"127.0.0.7\"]\n"
    let bed = try Bed(text, logins: Self.logins)
    let fields = ["X-User: alice", "X-Forwarded-For: 203.0.113.9, 198.51.100.7"]
    #expect(try bed.client().call("GET", "/alice/x/y", fields: fields)?.status == 401)
    let proxy = try Client(port: bed.port(), from: "127.0.0.7")
    #expect(proxy.call("GET", "/alice/x/y", fields: fields)?.status == 404)
    #expect(proxy.call("GET", "/alice/x/y", fields: ["X-User: mallory"])?.status == 403)
    #expect(proxy.call("GET", "/alice/x/y")?.status == 401)
    #expect(bed.logs("request", "address=198.51.100.7", "user=alice"))
  }

  // MARK: Repositories

  @Test func `R13 many repositories are served by one process`() throws {
    let bed = try Bed("[anonymous]\nrepositories = [\"*/*\"]")
    let clients = try (0..<10).map { _ in try bed.client() }
    for (number, client) in clients.enumerated() {
      #expect(client.call("POST", "/user\(number)/laptop/x", [UInt8(number)])?.status == 200)
    }
    for (number, client) in clients.enumerated() {
      #expect(client.call("GET", "/user\(number)/laptop/x")?.body == [UInt8(number)])
      #expect(client.call("GET", "/user\(number)/desktop/x")?.status == 404)
    }
  }

  @Test(arguments: [
    "/bob/laptop/x", "/alice/../bob/laptop/x", "/alice/%2e%2e/bob/x", "/alice/..%2fbob/x", "//alice/laptop/x",
    "/alice//laptop/x",
    "/alice/.ssh/x", "/Alice/laptop/x", "/alice", "/", "//", "/alice/", "/alice/./x", "/%61lice/laptop/x",
    "/alice/lap%00top/x",
    "/alice/laptop.tmp/x", "/metrics", "/healthz", "/metrics/x", "/alice\\laptop/x", "/alice/%252e%252e/x",
  ])
  func `R13 nothing outside of what a user was granted is reached`(path: String) throws {
    let bed = try Bed(Self.twoUsers, logins: Self.logins)
    let client = try bed.client()
    for method in ["GET", "HEAD", "POST", "DELETE"] {
      let reply = try #require(client.call(method, path, login: Self.alice))
      // The same for everything, be it there or not.
      #expect(reply.status == 403)
      #expect(method == "HEAD" || reply.text == "not permitted: nothing is granted here")
    }
    #expect(bed.events.state.withLock { $0.begun } == 0)
  }

  @Test func `closes repositories that nobody uses, and all at its end`() throws {

    let registry = Registry(idle: .seconds(60), open: { MemoryPlace($0) }, tell: { _, _ in })
    let name = try #require(RepositoryName("a"))
    let place = try #require(registry.enter(name).place as? MemoryPlace)
    #expect(registry.enter(name).place as? MemoryPlace === place)
    registry.leave(name)
    registry.tick(at: .now + .seconds(100))
    #expect(!place.isClosed.withLock { $0 })
    registry.leave(name)
    registry.tick(at: .now + .seconds(50))
    #expect(!place.isClosed.withLock { $0 })
    registry.tick(at: .now + .seconds(100))
    #expect(place.isClosed.withLock { $0 } && registry.names.isEmpty)
    let other = try #require(registry.enter(name).place as? MemoryPlace)
    registry.closeAll()
    #expect(other.isClosed.withLock { $0 })

  }
}
