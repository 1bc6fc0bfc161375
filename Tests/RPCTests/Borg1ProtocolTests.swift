import BorgFormat
import Disk
import Glibc
import Session
import Testing

@testable import RPC

/// The wire of Borg 1.x, as far as it needs no repository.
struct Borg1ProtocolTests {
  private typealias Client = Borg1Client

  // MARK: Which dialect

  @Test func `the first message of a 1.x client is answered byte for byte as the original does`() throws {
    let result = try Client.exchange([Client.hello])
    #expect(result.bytes == Client.welcome)
    #expect(result.dialect == .borg1)
    #expect(result.end == .closed)
  }

  @Test func `a client before 1.1 negotiates by a number, and keeps to tuples`() throws {
    let result = try Client.exchange([
      Value.array([1, 1, "negotiate", [2]]).encoded, Value.array([1, 2, "__len__", []]).encoded,
    ])
    #expect(result.answers.first == [1, 1, nil, 2])
    #expect(result.answers.last?.array?[2] == "AttributeError")
  }

  @Test func `a 1.x client that begins with a map is one all the same`() throws {
    let result = try Client.exchange([
      Client.request(1, "negotiate", ["client_data": .named(["client_version": [1, 2, 9, -1]])])
    ])
    #expect(result.dialect == .borg1)
    #expect(result.answers == [.named(["i": 1, "r": .named(["server_version": [1, 4, 5, -1]])])])
  }

  @Test(arguments: [[2, 0, 0, -3, 18], [3, 0, 0, -1]] as [[Int64]])
  func `clients of Borg 2 get Borg 2`(version: [Int64]) throws {
    let parts = Value.array(version.map { .int($0) })
    let result = try Client.exchange([
      Client.request(1, "negotiate", ["client_data": .named(["client_version": parts])])
    ])
    #expect(result.dialect == .borg2)
    #expect(result.answers == [.named(["i": 1, "r": .named(["server_version": [2, 0, 0, -3, 18]])])])
    #expect(result.log == [])
  }

  @Test func `what is no message at all ends as it always did, and nothing is said`() throws {
    let result = try Client.exchange([Array("hello from a shell\n".utf8)])
    #expect(result.end == .fault(.notAMap))
    #expect(result.bytes == [])
    #expect(result.log == [])
  }

  // MARK: Framing

  @Test func `requests are found wherever the stream is cut`() throws {
    let stream =
      Client.hello + Client.request(2, "inject_exception", ["kind": "IntegrityError"])
      + Client.request(3, "inject_exception", ["kind": "nothing"])
      + Client.request(4, "put", ["id": .id(1), "data": .binary([1, 2, 3]), "wait": true])
    let whole = try Client.exchange([stream])
    #expect(whole.answers.count == 4)
    for cut in 1..<stream.count {
      let parts = try Client.exchange([Array(stream[..<cut]), Array(stream[cut...])])
      #expect(parts.bytes == whole.bytes, "cut at \(cut)")
    }
  }

  @Test(arguments: [Value.int(7), .nil, [1, [2]], "seven", .binary([7]), .int(-1), .float(0.5)])
  func `an id comes back whatever it is, in both forms`(id: Value) throws {
    let result = try Client.exchange([
      Client.hello + Client.request(id, "inject_exception", ["kind": ""])
        + Value.array([1, id, "negotiate", [2]]).encoded
    ])
    #expect(result.answers.dropFirst().first?["i"] == id)
    #expect(result.answers.last?.array?[1] == id)
  }

  @Test func `a value too large to store costs no memory, and what follows is answered`() throws {
    let length = Limits.borg1Value + 5_000_000
    let head = Client.hello + [0x83, 0xa1, 0x69, 0x02, 0xa1, 0x6d, 0xa3] + Array("put".utf8)
    let arguments: [UInt8] = [0xa1, 0x61, 0x82, 0xa2] + Array("id".utf8) + Value.id(1).encoded
    let data: [UInt8] = [0xa4] + Array("data".utf8) + [0xdb] + bigEndian(length)
    let payload = [UInt8](repeating: 0x93, count: length)
    let result = try Client.exchange([
      head + arguments + data + payload + Client.request(3, "inject_exception", ["kind": "divide"])
    ])
    #expect(result.answers.count == 3)
    #expect(result.answers.dropFirst().first?["exception_class"] == "AttributeError")
    #expect(result.answers.last?["exception_class"] == "ZeroDivisionError")
  }

  private func bigEndian(_ length: Int) -> [UInt8] {
    stride(from: 24, through: 0, by: -8).map { UInt8(truncatingIfNeeded: length >> $0) }
  }

  @Test func `what announces more than a request may hold is refused before it comes`() throws {
    let result = try Client.exchange([Client.hello + [0x94, 0x01, 0x02, 0xdb, 0xff, 0xff, 0xff, 0xff]])
    guard case .fault(.malformed)? = result.end else {
      Issue.record("ended with \(String(describing: result.end))")
      return
    }
  }

  // MARK: Lengths

  @Test(
    arguments: [
      (0, [0xa0]), (31, [0xbf]), (32, [0xda, 0x00, 0x20]), (255, [0xda, 0x00, 0xff]),
      (256, [0xda, 0x01, 0x00]),
      (65535, [0xda, 0xff, 0xff]), (65536, [0xdb, 0x00, 0x01, 0x00, 0x00]),
    ] as [(Int, [UInt8])])
  func `byte strings go out in the forms that all clients read`(length: Int, head: [UInt8]) {
    var output = Borg1Output()
    output.raw([UInt8](repeating: 1, count: length))
    #expect(Array(output.bytes.prefix(head.count)) == head)
    #expect(output.bytes.count == head.count + length)
  }

  @Test func `a nonce may have all 64 bits`() {
    var output = Borg1Output()
    output.uint(.max)
    #expect(output.bytes == [0xcf] + [UInt8](repeating: 0xff, count: 8))
  }

  // MARK: Errors

  @Test(
    arguments: [
      ("DoesNotExist", ["test string"]), ("AlreadyExists", ["test string"]), ("CheckNeeded", ["test string"]),
      ("IntegrityError", ["test string"]), ("PathNotAllowed", ["foo"]),
      ("ObjectNotFound", ["test string", "test string2"]), ("InvalidRPCMethod", ["test string"]),
      ("divide", ["integer division or modulo by zero"]),
    ] as [(String, [String])])
  func `injected errors arrive as the upstream tests expect them`(kind: String, arguments: [String]) throws {
    let result = try Client.exchange([
      Client.hello + Client.request(2, "inject_exception", ["kind": .text(kind)])
    ])
    let answer = try #require(result.answers.last)
    #expect(answer["exception_class"]?.text == (kind == "divide" ? "ZeroDivisionError" : kind))
    #expect(answer["exception_args"]?.array?.map(\.text) == arguments)
    #expect(answer["exception_trace"] != nil)
    #expect(answer["sysinfo"]?.text == "")
    if kind == "divide" {
      #expect(answer["exception_short"]?.array?.first?.text?.hasPrefix("ZeroDivisionError:") == true)
    }
  }

  @Test(arguments: [Borg1Request.Form.map, .tuple])
  func `W3: whatever an error is about, its answer can be packed`(form: Borg1Request.Form) throws {
    let odd = String(decoding: [0x00, 0x0a, 0xff, 0xc3] as [UInt8], as: UTF8.self)
    let errors: [ServeError] = [
      .integrity(odd), .argumentValue(String(repeating: "x", count: 70_000)), .checkNeeded(""),
      .lockFailed(odd, reason: odd), .storageQuotaExceeded(quota: .max, use: 0),
      .insufficientFreeSpace(required: 0, available: .max), .markerUnknown(odd), .injected("divide"),
      .system(SystemFailure(operation: "read", name: odd, code: -1, reason: odd)),
    ]
    for error in errors {
      var output = Borg1Output()
      Borg1Error(error, repository: odd).append(to: &output, form, [0x07], sysinfo: "")
      var offset = 0
      let answer = try Value(output.bytes, at: &offset)
      #expect(offset == output.bytes.count)
      switch form {
      case .map: #expect(answer["exception_args"]?.array?.allSatisfy { $0.text != nil } == true, "\(error)")
      case .tuple: #expect(answer.array?.dropFirst(2).allSatisfy { $0.text != nil } == true, "\(error)")
      }
    }
  }

  @Test(arguments: ["info", "flags", "close", "__init__", ""])
  func `methods of others are no methods`(name: String) throws {
    let result = try Client.exchange([Client.hello + Client.request(2, name)])
    #expect(result.answers.last?["exception_class"] == "InvalidRPCMethod")
    #expect(result.answers.last?["exception_args"] == [.text(name)])
    #expect(result.answers.last?["exception_short"] == [.text("RPC method \(name) is not valid.")])
  }

  // MARK: The log

  @Test func `the log is in the form that the client knows`() throws {
    let before = try Client.exchange([Value.array([1, 1, "flags", []]).encoded])
    #expect(before.log.first == "$LOG ERROR root Remote: RPC method flags is not valid.")
    let after = try Client.exchange([Client.hello + Client.request(2, "flags")]) {
      $0.filter.level = .debug
    }
    let line = try #require(after.log.first { $0.contains("RPC method flags") })
    let json = try JSON(parsing: line.utf8.span)
    #expect(json["type"] == .string("log_message"))
    #expect(json["levelname"] == .string("DEBUG"))
    #expect(json["name"] == .string("borg.serve"))
  }

  @Test func `W1: that nothing was opened is said beside the protocol`() throws {
    let result = try Client.exchange([Client.hello])
    #expect(result.bytes == Client.welcome)
    #expect(result.log == ["Borg 1.4.5: Got connection close before repository was opened."])
  }

  @Test(arguments: [
    Value.array([1, 2, "flags", []]).encoded, Value.array([1, 2, "scan", []]).encoded,
    Value.array([1, 2, "put", [.id(1)]]).encoded, Value.array([1, 2, 3, []]).encoded,
    Value.array([1, 2, "get", nil]).encoded, Value.named(["i": 2]).encoded,
    Value.named(["i": 2, "m": "get", "a": nil]).encoded, Value.named(["i": 2, "m": 3, "a": []]).encoded,
  ])
  func `W21: a request that can be named is answered, and the connection goes on`(request: [UInt8]) throws {
    let result = try Client.exchange([
      Client.hello + request + Client.request(3, "negotiate", ["client_data": 2])
    ])
    #expect(result.answers.count == 3)
    #expect(result.answers.last == .named(["i": 3, "r": 2]))
    #expect(result.end == .closed)
  }

  @Test(
    arguments: [
      ([0x05], .fault(.notAMap)), ([0x93, 1, 2, 3], .fault(.notAMap)),
      ([0x80], .fault(.malformed("request without id"))), ([0xc1], .fault(.malformed("not MessagePack"))),
    ] as [([UInt8], ConnectionEnd)])
  func `W21: what cannot be named ends the connection in order`(bytes: [UInt8], end: ConnectionEnd) throws {
    let result = try Client.exchange([Client.hello + bytes])
    #expect(result.bytes == Client.welcome)
    #expect(result.end == end)
    #expect(result.log.last?.contains("levelname\": \"ERROR") == true)
  }

  @Test func `W23: a client is not told where things are, nor what the server is`() throws {
    let result = try Client.exchange([
      Client.hello
        + Client.request(2, "open", ["path": "/dev/shm/../shm/elsewhere", "lock_wait": 1, "exclusive": true])
    ]) {
      $0.session.granted.paths = [Array("/nonexistent/granted".utf8)]
    }
    let answer = try #require(result.answers.last)
    #expect(answer["exception_class"] == "PathNotAllowed")
    #expect(answer["exception_args"] == ["/dev/shm/../shm/elsewhere"])
    #expect(answer["exception_full"] == ["Repository path not allowed: /dev/shm/../shm/elsewhere"])
  }

  @Test func `lines that nobody reads are lost, and counted`() throws {
    let channel = try Channel()
    let output = LineOutput(channel.writer, patience: .zero)
    for number in 0..<2000 { output.write("line \(number) \(String(repeating: "x", count: 100))") }
    var bytes: [UInt8] = []
    let input = try ByteInput(channel.reader)
    while bytes.count < 60_000 { _ = try input.read(into: &bytes, room: 1 << 16) }
    output.write("the last")
    channel.closeWriter()
    while case .bytes = try input.read(into: &bytes, room: 1 << 16) {}
    let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n")
    #expect(lines.last == "the last")
    #expect(lines.dropLast().last?.hasSuffix("lines of the log were lost, as nobody read them") == true)
  }
}
