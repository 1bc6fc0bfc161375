import Disk
import Glibc
import SystemPackage

/// A client that says exactly what it is told to, over a blocking socket with a time limit.
final class Client {
  private let socket: Int32
  private var buffer: [UInt8] = []

  struct Reply: Equatable {
    var status = 0
    var line = ""
    var fields: [String: String] = [:]
    var body: [UInt8] = []

    var text: String { String(decoding: body, as: UTF8.self) }
  }

  init(port: Int, from source: String = "127.0.0.1") throws {
    socket = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var limit = timeval(tv_sec: 10, tv_usec: 0)
    unsafe setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    unsafe setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    var own = Self.address(source, 0)
    var peer = Self.address("127.0.0.1", port)
    let size = socklen_t(MemoryLayout<sockaddr_in>.size)
    let isConnected =
      unsafe withUnsafeMutablePointer(to: &own) { own in
        unsafe own.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe bind(socket, $0, size) == 0 }
      }
      && withUnsafeMutablePointer(to: &peer) { peer in
        unsafe peer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          unsafe connect(socket, $0, size) == 0
        }
      }
    guard isConnected else { throw Errno(rawValue: errno) }
  }

  init(path: String) throws {
    socket = Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    var limit = timeval(tv_sec: 10, tv_usec: 0)
    unsafe setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let bytes = Array(path.utf8)
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: bytes) }
    let isConnected = unsafe withUnsafeMutablePointer(to: &address) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe connect(socket, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) == 0
      }
    }
    guard isConnected else { throw Errno(rawValue: errno) }
  }

  deinit { _ = close(socket) }

  private static func address(_ text: String, _ port: Int) -> sockaddr_in {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = in_port_t(UInt16(port).bigEndian)
    _ = unsafe inet_pton(AF_INET, text, &address.sin_addr)
    return address
  }

  /// Sends bytes; false if the server does not take them any more.
  @discardableResult
  func send(_ bytes: [UInt8]) -> Bool {
    var sent = 0
    while sent < bytes.count {
      let count = unsafe bytes.withUnsafeBytes {
        unsafe Glibc.send(socket, $0.baseAddress! + sent, bytes.count - sent, Int32(MSG_NOSIGNAL))
      }
      guard count > 0 else { return false }
      sent += count
    }
    return true
  }

  @discardableResult
  func send(_ text: String) -> Bool { send(Array(text.utf8)) }

  func endInput() { _ = shutdown(socket, Int32(SHUT_WR)) }

  /// Reads more; false at the end, or after the time limit.
  private func fill() -> Bool {
    var block = [UInt8](repeating: 0, count: 65536)
    let count = unsafe recv(socket, &block, block.count, 0)
    guard count > 0 else { return false }
    buffer += block[..<count]
    return true
  }

  /// Whether the server has closed its side, with nothing more said.
  func isClosed() -> Bool {
    if !buffer.isEmpty { return false }
    var block = [UInt8](repeating: 0, count: 1)
    let count = unsafe recv(socket, &block, 1, 0)
    if count > 0 { buffer += block }
    return count == 0 || count < 0 && errno == ECONNRESET
  }

  /// The next answer; nil if the connection ends before it does.
  func reply(head isHead: Bool = false) -> Reply? {
    while true {
      if let end = (0..<max(0, buffer.count - 3)).first(where: {
        buffer[$0..<$0 + 4].elementsEqual([13, 10, 13, 10])
      }) {
        let text = String(decoding: buffer[..<end], as: UTF8.self)
        buffer.removeFirst(end + 4)
        return body(of: text, isHead)
      }
      guard fill() else { return nil }
    }
  }

  private func body(of head: String, _ isHead: Bool) -> Reply? {
    var reply = Reply()
    let lines = head.split(separator: "\r\n")
    reply.line = String(lines[0])
    reply.status = Int(lines[0].split(separator: " ")[1]) ?? 0
    for line in lines.dropFirst() {
      let parts = line.split(separator: ":", maxSplits: 1)
      reply.fields[parts[0].lowercased()] = parts.count > 1 ? String(parts[1].drop { $0 == " " }) : ""
    }
    let length = isHead || reply.status < 200 ? 0 : Int(reply.fields["content-length"] ?? "") ?? 0
    while buffer.count < length { guard fill() else { return nil } }
    reply.body = Array(buffer.prefix(length))
    buffer.removeFirst(length)
    return reply
  }

  /// Sends a request as borgstore does and waits for its answer.
  func call(
    _ method: String, _ path: String, _ body: [UInt8] = [], login: (String, String)? = nil,
    fields: [String] = []
  ) -> Reply? {
    send(Self.request(method, path, length: body.count, login: login, fields: fields))
    send(body)
    return reply(head: method == "HEAD")
  }

  static func request(
    _ method: String, _ path: String, length: Int = 0, login: (String, String)? = nil, fields: [String] = []
  ) -> String {
    var lines = ["\(method) \(path) HTTP/1.1", "Host: test", "Accept: application/vnd.x.borgstore.rest.v1"]
    if let login { lines.append("Authorization: Basic \(base64("\(login.0):\(login.1)"))") }
    lines += fields
    if method == "POST" || method == "DELETE" { lines.append("Content-Length: \(length)") }
    return lines.joined(separator: "\r\n") + "\r\n\r\n"
  }

  static func base64(_ text: String) -> String {
    let letters = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
    let bytes = Array(text.utf8)
    return stride(from: 0, to: bytes.count, by: 3).map { start in
      let group = bytes[start..<min(start + 3, bytes.count)]
      let bits = group.reduce(0) { $0 << 8 | Int($1) } << (8 * (3 - group.count))
      return (0..<4).map { $0 > group.count ? "=" : String(letters[bits >> (18 - 6 * $0) & 63]) }.joined()
    }.joined()
  }
}
