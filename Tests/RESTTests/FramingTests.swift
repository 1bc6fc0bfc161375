import BorgFormat
import REST
import Testing

private let empty = request("GET", "/")

@Suite struct `A stream of requests` {
  let place: Place
  let service: Service

  init() throws {
    place = try Place()
    service = place.service()
  }

  @Test func `is answered one by one in order`() throws {
    let talk = try Conversation(
      service,
      request("POST", "/ns/a", "0123456789") + request("GET", "/ns/a", fields: ["Range: bytes=2-4"])
        + request("HEAD", "/ns/a") + request("GET", "/nope") + request("HEAD", "/nope")
        + request("GET", "/ns/a"))
    #expect(talk.end == .closed)
    let replies = try talk.replies(heads: [2, 4])
    #expect(replies.map(\.status) == [200, 206, 200, 404, 404, 200])
    #expect(replies.map(\.text) == ["", "234", "", "nope", "", "0123456789"])
    #expect(replies[2].contentLength == 10)
    #expect(replies[1].fields["content-range"] == "bytes 2-4/10")
    #expect(replies.allSatisfy { $0.fields["connection"] == nil })
    #expect(talk.told == [])
  }

  @Test func `looks exactly like this`() throws {
    let talk = try Conversation(service, request("POST", "/a", "x") + request("GET", "/b?evil"))
    #expect(
      String(decoding: talk.output, as: UTF8.self)
        == "HTTP/1.1 200 OK\r\nCache-Control: no-store, no-cache, must-revalidate, max-age=0\r\nContent-Length: 0\r\n\r\n"
        + "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\n"
        + "Cache-Control: no-store, no-cache, must-revalidate, max-age=0\r\nContent-Length: 1\r\n\r\nb")
  }

  @Test(arguments: [0, 1, 131_072, 131_073, 3_000_000])
  func `carries objects of any size both ways`(size: Int) throws {
    let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 13) }
    let head = "POST /packs/a HTTP/1.1\r\nAccept: \(protocolType)\r\nContent-Length: \(size)\r\n\r\n"
    let gather = "[[\"packs/a\",0,\(size)],[\"packs/a\",0,\(min(size, 9))]]"
    let talk = try Conversation(
      service,
      Array(head.utf8) + bytes
        + Array((request("GET", "/packs/a") + request("POST", "/?cmd=gather", gather)).utf8))
    let replies = try talk.replies()
    #expect(replies.map(\.status) == [200, 200, 200])
    #expect(replies[1].body == bytes)
    #expect(replies[2].body == bytes + bytes.prefix(9))
  }

  @Test(arguments: [
    "", "\r\n", "G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nAccept: x\r\n\r",
    "POST /ns/x HTTP/1.1\r\nContent-Len",
  ])
  func `may end at any point before a body`(end: String) throws {
    let talk = try Conversation(service, empty + end)
    #expect(talk.end == .closed)
    #expect(try talk.replies().count == 1)
  }

  @Test(arguments: [1, 9, 200_000])
  func `R6 a truncated upload is not stored`(missing: Int) throws {
    let size = max(missing, 10)
    let whole = request("POST", "/packs/x", String(repeating: "x", count: size + 1))
    let talk = try Conversation(service, whole.utf8.dropLast(missing))
    #expect(talk.end == .closed)
    #expect(talk.output.isEmpty)
    #expect(try service.call(.head, "/packs/x").status == 404)
  }

  @Test(arguments: [
    "POST /ns/x HTTP/1.1\r\nAccept: */*\r\nContent-Length: 60\r\n\r\n",
    "PUT /ns/x HTTP/1.1\r\nContent-Length: 60\r\n\r\n",
    "BREW / HTTP/1.0\r\nContent-Length: 60\r\n\r\n",
    "POST / HTTP/1.1\r\nAccept: \(protocolType)\r\nContent-Length: 60\r\n\r\n",
    "POST /NS/x HTTP/1.1\r\nAccept: \(protocolType)\r\nContent-Length: 60\r\n\r\n",
    "POST /ns/\0x HTTP/1.1\r\nAccept: \(protocolType)\r\nContent-Length: 60\r\n\r\n",
    "POST /?cmd=defrag HTTP/1.1\r\nAccept: \(protocolType)\r\nContent-Length: 60\r\n\r\n",
    "POST /?cmd=gather HTTP/1.1\r\nAccept: \(protocolType)\r\nContent-Length: 60\r\n\r\n",
    "POST /?cmd=move HTTP/1.1\r\nAccept: \(protocolType)\r\nContent-Length: 60\r\n\r\n",
    "POST /a?cmd=hash HTTP/1.1\r\nAccept: \(protocolType)\r\nContent-Length: 60\r\n\r\n",
    "POST /a?cmd=mkdir HTTP/1.1\r\nAccept: \(protocolType)\r\nContent-Length: 60\r\n\r\n",
    "GET /ns/x HTTP/1.1\r\nAccept: \(protocolType)\r\nContent-Length: 60\r\n\r\n",
    "GET /ns/x HTTP/1.1\r\nContent-Length: 60\r\n\r\n",
    "DELETE / HTTP/1.1\r\nAccept: \(protocolType)\r\nContent-Length: 60\r\n\r\n",
    "POST /f HTTP/1.1\r\nAccept: \(protocolType)\r\nX-Content-hash-sha256: 0\r\nContent-Length: 60\r\n\r\n",
    "POST /ns/x HTTP/1.1\r\nAccept: \(protocolType)\r\nConnection: close\r\nContent-Length: 60\r\n\r\n",
    "POST /ns/x HTTP/1.1\r\nAccept: \(protocolType)\r\nExpect: 100-continue\r\nContent-Length: 60\r\n\r\n",
  ])
  func `R3 a body is drained whatever the answer is`(head: String) throws {
    let body = "POST /canary HTTP/1.1\r\nAccept: \(protocolType)\r\n\r\n"
    let padded = body + String(repeating: " ", count: 60 - body.utf8.count % 60)
    let length = String(padded.utf8.count)
    let talk = try Conversation(
      service, head.replacing("Content-Length: 60", with: "Content-Length: \(length)") + padded + empty)
    #expect(talk.end == .closed)
    let replies = try talk.replies()
    #expect(replies.count == 2)
    #expect(replies.last?.status == 200)
    #expect(replies.allSatisfy { $0.fields["connection"] == nil })
    #expect(try service.call(.head, "/canary").status == 404)
  }

  @Test(arguments: [
    ("POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
    ("POST /x HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
    ("POST /x HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n", 501),
    ("POST /x HTTP/1.1\r\ntransfer-encoding:\r\n\r\n", 501),
    ("POST /x HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
    ("POST /x HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n", 400),
    ("POST /x HTTP/1.1\r\nContent-Length: +5\r\n\r\n", 400),
    ("POST /x HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400),
    ("POST /x HTTP/1.1\r\nContent-Length: 0x5\r\n\r\n", 400),
    ("POST /x HTTP/1.1\r\nContent-Length:\r\n\r\n", 400),
    ("POST /x HTTP/1.1\r\nContent-Length: 5 5\r\n\r\n", 400),
    ("POST /x HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
    ("POST /x HTTP/1.1\r\nContent-Length : 5\r\n\r\n", 400),
    ("POST /x HTTP/1.1\r\n Content-Length: 5\r\n\r\n", 400),
    ("POST /x HTTP/1.1\r\nX: a\r\n b\r\n\r\n", 400),
    ("POST /x HTTP/1.1\r\nX: a\r\n\tContent-Length: 5\r\n\r\n", 400),
    ("POST /x HTTP/1.1\r\nX: a\rContent-Length: 5\r\n\r\n", 400),
    ("POST /x HTTP/1.1\r\nX: a\0b\r\n\r\n", 400),
    ("POST /x HTTP/1.1\r\nX\r\n\r\n", 400), ("POST /x HTTP/1.1\r\n: a\r\n\r\n", 400),
    ("POST /x HTTP/1.1\r\nContent\u{0B}-Length: 5\r\n\r\n", 400), ("POST /x\r\n\r\n", 400),
    ("GET /\r\n\r\n", 400),
    ("POST  /x HTTP/1.1\r\n\r\n", 400), ("POST /x HTTP/1.1 \r\n\r\n", 400),
    (" POST /x HTTP/1.1\r\n\r\n", 400),
    ("POST /x y HTTP/1.1\r\n\r\n", 400), ("P(ST /x HTTP/1.1\r\n\r\n", 400),
    ("POST /x HTTPS/1.1\r\n\r\n", 400),
    ("POST /x HTTP/2.0\r\n\r\n", 505), ("POST /x HTTP/0.9\r\n\r\n", 505), ("POST /x HTTP/1.1x\r\n\r\n", 505),
    ("\u{16}\u{3}\u{1}\r\n\r\n", 400), ("{}\n\n", 400),
  ])
  func `R3 what leaves a doubt where a request ends is answered and ends the stream`(
    head: String, status: Int
  ) throws {
    let talk = try Conversation(service, empty + head + empty)
    let replies = try talk.replies()
    #expect(replies.map(\.status) == [200, status])
    #expect(replies.last?.fields["connection"] == "close")
    guard case .malformed = talk.end else {
      Issue.record("the connection ended otherwise: \(talk.end)")
      return
    }
    #expect(try service.call(.head, "/x").status == 404)
  }

  @Test func `R6 a chunked upload is refused, and nothing is stored`() throws {
    let talk = try Conversation(
      service,
      "POST /x HTTP/1.1\r\nAccept: \(protocolType)\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    )
    #expect(try talk.replies().map(\.status) == [501])
    #expect(try service.call(.head, "/x").status == 404)
  }

  @Test func `R4 nothing in a request ends the server`() throws {
    let talk = try Conversation(
      service,
      request("POST", "/?cmd=defrag&algorithm=sha256&levels=x", "[]")
        + request("POST", "/?cmd=move&current=%E2%98%83&new=x")
        + request("POST", "/?cmd=move&current=%ff&new=x")
        + request("GET", "/☃") + request("POST", "/?cmd=hash&algorithm=%00") + empty)
    #expect(talk.end == .closed)
    #expect(try talk.replies().map(\.status) == [400, 400, 400, 400, 400, 200])
  }

  @Test(arguments: [
    request("POST", "/?cmd=move&current=a%0d%0aX-Evil:%201&new=b"), request("GET", "/a%0d%0aX-Evil:1"),
    request("POST", "/?cmd=defrag&target=a%0d%0aX-Evil:%201", "[]"),
    request("POST", "/?cmd=gather", "[[\"a\\r\\nX-Evil: 1\",0,1]]"),
    request("POST", "/x?cmd=hash&algorithm=a%0d%0aX-Evil:%201"),
    request("POST", "/?cmd=defrag&algorithm=sha256&levels=1%0d%0aX-Evil:%201", "[]"),
  ])
  func `R5 nothing that a client says becomes a line of an answer`(request: String) throws {
    let replies = try Conversation(service, request + empty).replies()
    #expect(replies.count == 2)
    #expect(replies.allSatisfy { $0.fields["x-evil"] == nil })
    #expect(replies.first?.body.contains { $0 == 0x0D || $0 == 0x0A } == false)
  }

  @Test(arguments: [
    "\r\n\r\nGET / HTTP/1.1\r\nAccept: \(protocolType)\r\n\r\n",
    "GET / HTTP/1.1\nAccept: \(protocolType)\n\n",
    "GET / HTTP/1.0\r\naccept:\t\(protocolType) \t\r\n\r\n",
    "GET / HTTP/1.1\r\nACCEPT:\(protocolType)\r\nX-Empty:\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "GET http://h/ HTTP/1.1\r\nHost: h\r\nAccept: \(protocolType)\r\nConnection: close\r\n\r\n",
  ])
  func `takes what is clear`(request: String) throws {
    let talk = try Conversation(service, request + request)
    #expect(talk.end == .closed)
    #expect(try talk.replies().map(\.status) == [200, 200])
  }

  @Test func `limits lines, fields and heads`() throws {
    let long = String(repeating: "a", count: Limits.restLine)
    let fields = (0..<Limits.restFields - 1).map { "X-\($0): 1" }
    for (head, status) in [
      (request("GET", "/" + long), 414), (long + "a", 414),
      (request("GET", "/", fields: ["X: " + long]), 431),
      (request("GET", "/", fields: fields + ["Y: 1"]), 431),
      (request("GET", "/", fields: [String](repeating: "X: " + long.prefix(50_000), count: 3)), 431),
      (String(repeating: "\r\n", count: Limits.restHead), 431),
    ] {
      let talk = try Conversation(service, head)
      #expect(try talk.replies().map(\.status) == [status])
    }
    #expect(try Conversation(service, request("GET", "/", fields: fields)).replies().map(\.status) == [200])
  }

  @Test func `R1 an answer of many parts has one object open at a time`() throws {
    _ = try service.call(.post, "/packs/x", String(repeating: "x", count: 200_000))
    let store = WatchedStore(try place.place.store())
    let watched = Service(place: WatchedPlace(watched: store), permissions: .all)
    let entries = [String](repeating: "[\"packs/x\",0,1000],[\"packs/x\",0,200000]", count: 50)
    let talk = try Conversation(
      watched, request("POST", "/?cmd=gather", "[" + entries.joined(separator: ",") + "]"))
    #expect(try talk.replies().first?.body.count == 50 * 201_000)
    #expect(store.opened == 100)
    #expect(store.mostOpen == 1)
    #expect(
      try watched.call(.post, "/?cmd=defrag&target=y", "[" + entries.joined(separator: ",") + "]").status
        == 200)
    #expect(store.mostOpen == 1)
    #expect(try service.call(.head, "/y").contentLength == 50 * 201_000)
  }

  @Test func `an object that vanishes in the middle of an answer ends the connection`() throws {
    _ = try service.call(.post, "/packs/x", "0123456789")
    let store = WatchedStore(try place.place.store(), losesAll: true)
    let talk = try Conversation(
      Service(place: WatchedPlace(watched: store), permissions: .all),
      request("POST", "/?cmd=gather", "[[\"packs/x\",0,10]]") + empty)
    #expect(talk.end == .broken)
    #expect(talk.told.count == 1)
    #expect(talk.output.isEmpty)
  }

  @Test func `what cannot be made durable at the end is no success`() throws {
    let talk = try Conversation(Service(place: FailingPlace(), permissions: .all), request("GET", "/"))
    #expect(talk.end == .broken)
    #expect(talk.told == ["not everything could be made durable: make durable packs/x: no space left"])
    // R16 The reason is told, too, where it is the disk's.
    #expect(try talk.replies().map(\.status) == [500])
    #expect(try talk.replies().first?.text == "open the store: input/output error")
  }
}

extension Conversation {
  init(_ service: Service, _ input: some Collection<UInt8>) throws { try self.init(service, Array(input)) }
}
