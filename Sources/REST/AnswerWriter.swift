import BorgFormat
import Disk
import Storage
import SystemPackage

/// Puts answers upon a stream: their head and what is small in one write, large objects by the kernel where it can.
struct AnswerWriter {
  private let output: ByteOutput
  /// Whether a peer that does not read has had all the time that it gets.
  private let isOver: () -> Bool
  private var buffer: [UInt8] = []
  private var block: [UInt8] = []

  init(output: ByteOutput, isOver: @escaping () -> Bool) {
    (self.output, self.isOver) = (output, isOver)
  }

  /// Writes an answer, with its body unless that is not wanted. Throws `Errno` for a peer that cannot be reached or does
  /// not read, and `ServeError` if what was announced cannot be read: the connection has to end then.
  mutating func write(_ answer: Answer, withBody: Bool) throws {
    buffer.removeAll(keepingCapacity: true)
    buffer += "HTTP/1.1 \(answer.status) \(HTTPStatus.phrase(answer.status))\r\n".utf8
    for field in answer.fields { buffer += "\(field.name): \(field.value)\r\n".utf8 }
    buffer += "Content-Length: \(answer.contentLength)\r\n\r\n".utf8
    switch answer.body {
    case _ where !withBody: break
    case .none: break
    case .bytes(let bytes) where bytes.count <= Limits.inlineValue: buffer += bytes
    case .bytes(let bytes):
      try flush()
      try output.write(bytes, unless: isOver)
      return
    case .pieces(let pieces):
      for piece in pieces { try write(piece) }
    }
    try flush()
    if buffer.capacity > 2 * Limits.readBlock { buffer = [] }
  }

  private mutating func write(_ piece: Answer.Piece) throws {
    if piece.count <= Limits.inlineValue { return try collect(piece) }
    try flush()
    var done = 0
    while done < piece.count {
      guard !isOver() else { throw Errno.interrupted }
      let sent = try piece.object.send(at: piece.offset + done, count: piece.count - done, to: output)
      guard let sent else { return try copy(piece, from: done) }
      guard sent > 0 else { throw Self.shorter }
      done += sent
    }
  }

  /// Puts a small piece behind what is to be written next.
  private mutating func collect(_ piece: Answer.Piece) throws {
    if buffer.count + piece.count > Limits.readBlock { try flush() }
    var done = 0
    while done < piece.count {
      if block.count != piece.count - done { block = [UInt8](repeating: 0, count: piece.count - done) }
      let count = try piece.object.read(at: piece.offset + done, into: &block)
      guard count > 0 else { throw Self.shorter }
      buffer += block[..<count]
      done += count
    }
  }

  private mutating func copy(_ piece: Answer.Piece, from start: Int) throws {
    var done = start
    while done < piece.count {
      let wanted = min(piece.count - done, Limits.readBlock)
      if block.count != wanted { block = [UInt8](repeating: 0, count: wanted) }
      let count = try piece.object.read(at: piece.offset + done, into: &block)
      guard count > 0 else { throw Self.shorter }
      if count < block.count { block.removeLast(block.count - count) }
      try output.write(block, unless: isOver)
      done += count
    }
  }

  private mutating func flush() throws(Errno) {
    guard !buffer.isEmpty else { return }
    try output.write(buffer, unless: isOver)
    buffer.removeAll(keepingCapacity: true)
  }

  private static var shorter: ServeError { .integrity("an object became shorter while it was read") }
}

/// The words that belong to statuses. What went wrong stands in the body: nothing of a client's is ever put here.
public enum HTTPStatus {
  public static func phrase(_ status: Int) -> String {
    switch status {
    case 200: "OK"
    case 206: "Partial Content"
    case 400: "Bad Request"
    case 401: "Unauthorized"
    case 403: "Forbidden"
    case 404: "Not Found"
    case 405: "Method Not Allowed"
    case 406: "Not Acceptable"
    case 408: "Request Timeout"
    case 409: "Conflict"
    case 410: "Gone"
    case 411: "Length Required"
    case 412: "Precondition Failed"
    case 413: "Content Too Large"
    case 414: "URI Too Long"
    case 416: "Range Not Satisfiable"
    case 417: "Expectation Failed"
    case 422: "Unprocessable Content"
    case 423: "Locked"
    case 429: "Too Many Requests"
    case 431: "Request Header Fields Too Large"
    case 500: "Internal Server Error"
    case 501: "Not Implemented"
    case 503: "Service Unavailable"
    case 505: "HTTP Version Not Supported"
    case 507: "Insufficient Storage"
    default: status < 400 ? "OK" : "Error"
    }
  }
}
