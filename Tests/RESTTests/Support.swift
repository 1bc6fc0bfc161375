import BorgFormat
import ContentHash
import Disk
import DiskSimulation
import Glibc
import REST
import Session
import Storage
import SystemPackage
import Testing

/// An answer as a client sees it.
struct Reply: Equatable {
  var status: Int
  /// Names in lower case.
  var fields: [String: String]
  var body: [UInt8]
  var contentLength: Int

  var text: String { String(decoding: body, as: UTF8.self) }

  func json() throws -> JSON {
    let bytes = body
    return try JSON(parsing: bytes.span, maximumSize: 1 << 20)
  }

  init(status: Int, fields: [String: String] = [:], body: [UInt8] = [], contentLength: Int? = nil) {
    (self.status, self.fields, self.body) = (status, fields, body)
    self.contentLength = contentLength ?? body.count
  }

  /// Reads all of an answer, as a transport does.
  init(_ answer: REST.Answer) throws {
    var body: [UInt8] = []
    switch answer.body {
    case .none: break
    case .bytes(let bytes): body = bytes
    case .pieces(let pieces):
      for piece in pieces {
        var buffer = [UInt8](repeating: 0, count: piece.count)
        let count = try piece.object.read(at: piece.offset, into: &buffer)
        body += buffer[..<count]
      }
    }
    let fields = answer.fields.map { ($0.name.lowercased(), $0.value) }
    self.init(
      status: answer.status, fields: Dictionary(fields) { $1 }, body: body,
      contentLength: answer.contentLength)
  }
}

/// A directory, and the place that it is.
struct Place {
  let directory: TemporaryDirectory
  let place: DirectoryPlace

  init(
    _ contents: DirectoryPlace.Contents = .anything, creating: Bool = true, below name: String = "store",
    limit: UInt64? = nil
  ) throws {
    directory = try TemporaryDirectory()
    let path = try RepositoryPath(resolving: directory.path.bytes + Array("/\(name)".utf8))
    place = DirectoryPlace(
      location: RepositoryLocation(path: path), label: "/\(name)", contents: contents, limit: limit)
    if creating { _ = try path.create() }
  }

  var root: Directory { get throws { try directory.open().directory("store") } }

  func service(_ mode: Permissions = .all) -> Service {
    Service(place: KeptPlace(kept: self), permissions: mode)
  }

  /// Puts a file there past the server.
  func write(_ name: String, _ text: String = "") throws {
    let root = try root
    if let parent = name.parentName { try root.makeDirectories(parent) }
    try root.remove(name)
    try root.create(name).write(Array(text.utf8), 0..<text.utf8.count, at: 0)
  }

  func read(_ name: String) throws -> String? {
    guard try root.status(name) != nil else { return nil }
    let file = try root.file(name)
    return String(decoding: try file.read(at: 0, count: file.size()), as: UTF8.self)
  }
}

/// A place that keeps its directory for as long as somebody serves it.
struct KeptPlace: StorePlace {
  let kept: Place

  func store() throws(ServeError) -> any PathStore { try kept.place.store() }
  func create() throws(ServeError) { try kept.place.create() }
  func destroy() throws(ServeError) { try kept.place.destroy() }
  func quota() throws(ServeError) -> (limit: UInt64, usage: UInt64)? { try kept.place.quota() }
  func tick() { kept.place.tick() }
  func close() throws(ServeError) { try kept.place.close() }
}

let protocolType = "application/vnd.x.borgstore.rest.v1"

extension Service {
  /// Has a request answered; its body comes in pieces.
  func call(
    _ method: RequestHead.Method, _ target: String, _ body: String = "", _ fields: [String: String] = [:],
    accept: String? = protocolType
  ) throws -> Reply {
    try call(method, target, bytes: Array(body.utf8), fields, accept: accept)
  }

  func call(
    _ method: RequestHead.Method, _ target: String, bytes: [UInt8], _ fields: [String: String] = [:],
    accept: String? = protocolType, pieces: Int = 60_000
  ) throws -> Reply {
    var all = fields.map { (name: $0.key, value: $0.value) }
    if let accept { all.append((name: "accept", value: accept)) }
    let head = RequestHead(method: method, target: target, fields: all, contentLength: bytes.count)
    let exchange = begin(head)
    var start = 0
    while start < bytes.count {
      let end = min(start + pieces, bytes.count)
      exchange.receive(bytes, start..<end)
      start = end
    }
    return try Reply(exchange.finish())
  }
}

func sha256(_ text: String) -> String { ContentHasher.digest(of: Array(text.utf8).span, by: .sha256).hex }
func blake3(_ text: String) -> String { ContentHasher.digest(of: Array(text.utf8).span, by: .blake3).hex }

/// What a connection comes to that is sent some bytes and then the end.
struct Conversation {
  let end: RESTConnection.End
  let output: [UInt8]
  /// What the administrator was told.
  let told: [String]

  init(_ service: Service, _ input: [UInt8]) throws {
    let (up, down) = (try ScratchFile(), try ScratchFile())
    try up.write(input)
    let lines = Monitor<[String]>([])
    let connection = RESTConnection(
      input: try ByteInput(up.descriptor), output: ByteOutput(down.descriptor), service: service,
      tell: { line in lines.update { $0.append(line) } })
    end = connection.run()
    output = try down.read()
    told = lines.withLock { $0 }
  }

  init(_ service: Service, _ input: String) throws { try self.init(service, Array(input.utf8)) }

  /// The answers, which have to fill the output exactly; those to HEAD by their places.
  func replies(heads: Set<Int> = []) throws -> [Reply] {
    var replies: [Reply] = []
    var rest = output[...]
    while !rest.isEmpty {
      let text = String(decoding: rest, as: UTF8.self)
      let head = try #require(text.ranges(of: "\r\n\r\n").first.map { text[..<$0.lowerBound] })
      let lines = head.split(separator: "\r\n")
      let status = try #require(lines.first?.split(separator: " ").dropFirst().first.flatMap { Int($0) })
      var fields: [String: String] = [:]
      for line in lines.dropFirst() {
        let colon = try #require(line.firstIndex(of: ":"))
        fields[line[..<colon].lowercased()] = String(line[line.index(after: colon)...].drop { $0 == " " })
      }
      rest = rest.dropFirst(head.utf8.count + 4)
      let length = try #require(fields["content-length"].flatMap { Int($0) })
      let count = heads.contains(replies.count) ? 0 : length
      try #require(rest.count >= count)
      replies.append(
        Reply(status: status, fields: fields, body: Array(rest.prefix(count)), contentLength: length))
      rest = rest.dropFirst(count)
    }
    return replies
  }
}

/// A nameless file, in the place of a pipe: nobody has to read while it is written.
private final class ScratchFile {
  let descriptor: Int32

  init() throws {
    var name = Array("/tmp/borg-serve-test-XXXXXX\0".utf8).map { CChar(bitPattern: $0) }
    descriptor = unsafe mkstemp(&name)
    guard descriptor >= 0 else { throw Errno(rawValue: errno) }
    _ = unsafe unlink(name)
  }

  deinit { close(descriptor) }

  func write(_ bytes: [UInt8]) throws {
    try ByteOutput(descriptor).write(bytes, count: bytes.count)
    lseek(descriptor, 0, SEEK_SET)
  }

  func read() throws -> [UInt8] {
    lseek(descriptor, 0, SEEK_SET)
    let input = try ByteInput(descriptor)
    var bytes: [UInt8] = []
    while case .bytes = try input.read(into: &bytes, room: 1 << 20) {}
    return bytes
  }
}

/// A request in bytes.
func request(_ method: String, _ target: String, _ body: String? = nil, fields: [String] = []) -> String {
  let length = body.map { ["Content-Length: \($0.utf8.count)"] } ?? []
  let lines = ["\(method) \(target) HTTP/1.1", "Accept: \(protocolType)"] + fields + length
  return lines.joined(separator: "\r\n") + "\r\n\r\n" + (body ?? "")
}
