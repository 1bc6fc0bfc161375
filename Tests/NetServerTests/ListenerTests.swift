import Disk
import DiskSimulation
import Glibc
import NIOCore
import NIOPosix
import NIOSSL
import SystemPackage
import Testing

@testable import NetServer

@Suite(.serialized) struct `Listeners of a network server` {
  @Test func `several of them serve at once`() throws {
    let bed = try Bed(
      "[[listener]]\naddress = \"127.0.0.1:0\"\n[[listener]]\naddress = \"[::1]:0\"\n[[listener]]\nsocket = \"@/s.sock\"\nmode = \"600\"\n"
    )
    #expect(bed.server.addresses.count == 3 && bed.server.addresses[1].hasPrefix("[::1]:"))
    #expect(try bed.client().call("POST", "/r/x", [5])?.status == 200)
    let path = "\(bed.directory.path.text)/s.sock"
    #expect(try Client(path: path).call("GET", "/r/x")?.body == [5])
    var status = stat()
    #expect(unsafe stat(path, &status) == 0 && status.st_mode & 0o777 == 0o600)
    bed.stop()
    #expect(unsafe stat(path, &status) != 0)
  }

  @Test func `one that cannot listen keeps the server from starting`() throws {
    let bed = try Bed()
    #expect(throws: NetworkServer.Failure.self) {
      _ = try Bed(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[[listener]]\naddress = \"127.0.0.1:\(bed.port())\"\n")
    }
  }

  // MARK: TLS

  /// Makes a certificate by openssl, for this machine.
  private func makeCertificate(_ name: String, in directory: String) throws {
    let command =
      "cd \(directory) && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout \(name).key "
      + "-out \(name).crt -days 2 -subj /CN=\(name) -addext subjectAltName=IP:127.0.0.1 2>/dev/null"
    try #require(unsafe system(command) == 0, "openssl has to be installed")
  }

  /// One request over TLS; what the server's certificate is called, and its answer.
  private func call(
    _ port: Int, trusting certificate: String, _ change: (inout TLSConfiguration) -> Void = { _ in }
  ) throws
    -> String
  {
    var configuration = TLSConfiguration.makeClientConfiguration()
    configuration.trustRoots = .file(certificate)
    change(&configuration)
    let context = try NIOSSLContext(configuration: configuration)
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    defer { try? group.syncShutdownGracefully() }
    let answer = group.next().makePromise(of: String.self)
    let channel = try ClientBootstrap(group: group).channelInitializer { channel in
      channel.eventLoop.makeCompletedFuture {
        try channel.pipeline.syncOperations.addHandler(
          NIOSSLClientHandler(context: context, serverHostname: nil))
        try channel.pipeline.syncOperations.addHandler(Collector(answer))
      }
    }.connect(host: "127.0.0.1", port: port).wait()
    try? channel.writeAndFlush(
      ByteBuffer(string: Client.request("GET", "/r/x", fields: ["Connection: close"]))
    ).wait()
    return try answer.futureResult.wait()
  }

  private final class Collector: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    private let answer: EventLoopPromise<String>
    private var text = ""

    init(_ answer: EventLoopPromise<String>) { self.answer = answer }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
      text += String(buffer: unwrapInboundIn(data))
    }
    func channelInactive(context: ChannelHandlerContext) { answer.succeed(text) }
    func errorCaught(context: ChannelHandlerContext, error: any Error) {
      // The server need not say goodbye, once all is said.
      if text.isEmpty { answer.fail(error) } else { answer.succeed(text) }
      context.close(promise: nil)
    }
  }

  private func tlsBed() throws -> Bed {
    let directory = try TemporaryPath()
    try makeCertificate("one", in: directory.path)
    try makeCertificate("two", in: directory.path)
    let text =
      "[[listener]]\naddress = \"127.0.0.1:0\"\ntls-certificate = \"@/c.crt\"\ntls-key = \"@/c.key\"\n"
    let files = try [
      "c.crt": directory.text("one.crt"), "c.key": directory.text("one.key"),
      "two.crt": directory.text("two.crt"), "two.key": directory.text("two.key"),
    ]
    return try Bed(text, files: files)
  }

  @Test func `R12 connections are protected by TLS 1.2 and later only`() throws {
    let bed = try tlsBed()
    let certificate = "\(bed.directory.path.text)/c.crt"
    #expect(try call(bed.port(), trusting: certificate).hasPrefix("HTTP/1.1 404 "))
    for version in [TLSVersion.tlsv12, .tlsv13] {
      let answer = try call(bed.port(), trusting: certificate) {
        $0.minimumTLSVersion = version
        $0.maximumTLSVersion = version
      }
      #expect(answer.hasPrefix("HTTP/1.1 404 "))
    }
    #expect(throws: (any Error).self) {
      try call(bed.port(), trusting: certificate) {
        $0.minimumTLSVersion = .tlsv1
        $0.maximumTLSVersion = .tlsv11
      }
    }
    // Who speaks no TLS there gets nothing.
    let plain = try bed.client()
    plain.send(Client.request("GET", "/r/x"))
    #expect(plain.reply() == nil)
  }

  @Test func `a new certificate is taken without a restart, and a broken one is not`() throws {
    let bed = try tlsBed()
    let path = bed.directory.path.text
    #expect(try call(bed.port(), trusting: "\(path)/c.crt").hasPrefix("HTTP/1.1 404 "))
    try bed.write("nonsense", to: "c.crt")
    bed.server.tick()
    #expect(bed.logs("error", "certificate is left as it was"))
    let two = try NetworkServer.text("\(path)/two.crt")
    try bed.write(two, to: "c.crt")
    try bed.write(try NetworkServer.text("\(path)/two.key"), to: "c.key")
    bed.server.tick()
    #expect(try call(bed.port(), trusting: "\(path)/two.crt").hasPrefix("HTTP/1.1 404 "))
  }

  @Test func `a certificate that cannot be used keeps the server from starting`() throws {
    #expect(throws: NetworkServer.Failure.self) {
      _ = try Bed(
        "[[listener]]\naddress = \"127.0.0.1:0\"\ntls-certificate = \"@/c\"\ntls-key = \"@/c\"\n",
        files: ["c": "nonsense"])
    }
  }

  // MARK: Observation

  @Test func `metrics are for those to whom they are granted`() throws {
    let text = """
      [[listener]]
      address = "127.0.0.1:0"
      [[listener]]
      address = "127.0.0.1:0"
      metrics = true
      [user.alice]
      repositories = ["alice/*"]
      [user.watcher]
      metrics = true
      """
    let bed = try Bed(
      text, logins: [Bed.Login(user: "alice", password: "a"), Bed.Login(user: "watcher", password: "w")])
    let client = try bed.client()
    for path in ["/metrics", "/healthz"] {
      #expect(client.call("GET", path)?.status == 401)
      #expect(client.call("GET", path, login: ("alice", "a"))?.status == 403)
      #expect(client.call("GET", path, login: ("watcher", "w"))?.status == 200)
      #expect(try bed.client(1).call("GET", path)?.status == 200)
    }
    #expect(client.call("POST", "/alice/x/y", [1, 2, 3], login: ("alice", "a"))?.status == 200)
    _ = client.call("GET", "/alice/x/y", login: ("alice", "wrong"))
    let watcher = try bed.client(1)
    let page = try #require(watcher.call("GET", "/metrics"))
    #expect(page.fields["content-type"]?.hasPrefix("text/plain; version=0.0.4") == true)
    for line in [
      "borg_serve_requests_total{operation=\"store\",status=\"200\"} 1\n",
      "borg_serve_received_bytes_total 3\n",
      "borg_serve_request_seconds_count{operation=\"store\"} 1\n",
      "borg_serve_logins_total{result=\"wrong\"} 1\n",
      "borg_serve_connections ", "borg_serve_open_repositories 1\n",
    ] {
      #expect(page.text.contains(line), "\(line) in \(page.text)")
    }
    #expect(try bed.client(1).call("GET", "/healthz")?.text == "ok\n")
  }

  @Test func `repositories are looked at from outside`() throws {
    let directory = try TemporaryPath()
    let command =
      "cd \(directory.path) && mkdir -p a/b/config a/b/packs/00 a/b/archives a/none && printf xy > a/b/packs/00/p && printf x > a/b/packs/00/q.tmp"
      + " && touch -d @1000 a/b/archives/1 && touch -d @2000 a/b/archives/2 && touch -d @3000 a/b/archives/3.del"
    try #require(unsafe system(command) == 0)
    let root = try RepositoryPath(resolving: Array(directory.path.utf8))
    let name = try #require(RepositoryName("a/b"))
    let pattern = try #require(RepositoryPattern("*/*"))
    let look = RepositoryLook(
      root: root, patterns: [pattern], quotas: [name: 9]
    ) { false }
    let facts = look.facts()
    #expect(facts.keys.map(\.text) == ["a/b"])
    let found = try #require(facts[name])
    #expect(
      found.bytes == 2 && found.objects == 4 && found.archives == 2 && found.lastBackup == 2000
        && found.quota == 9)
  }

  @Test func `logs are lines of JSON if that is wanted, and nobody forges one`() throws {
    let lines = Monitor<[String]>([])
    var options = Configuration.LogOptions()
    options.json = true
    let log = Log(options) { text in lines.update { $0.append(text) } }
    log.write(
      .info, "request", ["path": .text("/a\n\"b"), "ms": .milliseconds(1.5), "n": .number(3), "none": nil])
    options.json = false
    log.change(to: options)
    log.write(.info, "request", ["path": .text("/a\nforged"), "user": .text("x y")])
    log.end()
    let text = lines.withLock { $0.joined(separator: "\n") }.split(separator: "\n").map(String.init)
    #expect(text.count == 2)
    #expect(
      text[0].hasSuffix(
        "\"level\": \"info\", \"message\": \"request\", \"path\": \"/a\\n\\\"b\", \"ms\": 1.500, \"n\": 3}"))
    #expect(text[1].hasSuffix("info request path=\"/a\\nforged\" user=\"x y\""))
  }
}

/// A directory for a test that is removed behind it.
private final class TemporaryPath {
  let path: String

  init() throws {
    path = "/tmp/borg-serve-net-test-\(UInt64.random(in: 0...UInt64.max))"
    guard unsafe mkdir(path, 0o700) == 0 else { throw Errno(rawValue: errno) }
  }

  func text(_ name: String) throws -> String { try NetworkServer.text("\(path)/\(name)") }

  deinit { _ = unsafe system("rm -rf '\(path)'") }
}
