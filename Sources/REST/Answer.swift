public import Storage

/// What a request is answered with, for a transport to put on the wire.
public struct Answer: Sendable {
  public var status: Int
  /// Besides `Content-Length`, which the transport writes from `contentLength`.
  public var fields: [(name: String, value: String)]
  public var body: Body
  /// Bytes of the body; for HEAD of what the body would be.
  public var contentLength: Int

  public enum Body: Sendable {
    case none
    case bytes([UInt8])
    /// To be streamed one after the other, never as a whole in memory.
    ///
    /// A piece that is one of many opens its object when it is read first and gives it up when its last byte was read, so
    /// take them in order. One whose object has vanished meanwhile throws: the connection has to end then, since its
    /// length has been announced.
    case pieces([Piece])
  }

  /// A part of an object, of one byte at least.
  public struct Piece: Sendable {
    public let object: any StoredObject
    public let offset: Int
    public let count: Int

    public init(object: any StoredObject, offset: Int, count: Int) {
      (self.object, self.offset, self.count) = (object, offset, count)
    }
  }

  public init(
    status: Int, fields: [(name: String, value: String)] = [], body: Body = .none, contentLength: Int? = nil
  ) {
    (self.status, self.fields, self.body) = (status, fields, body)
    self.contentLength =
      contentLength
      ?? {
        switch body {
        case .none: 0
        case .bytes(let bytes): bytes.count
        case .pieces(let pieces): pieces.reduce(0) { $0 + $1.count }
        }
      }()
  }
}

extension Answer {
  /// Nothing that a store holds may be answered from anybody's cache.
  private static let notCached = (
    name: "Cache-Control", value: "no-store, no-cache, must-revalidate, max-age=0"
  )

  /// Success.
  static func success(
    _ status: Int = 200, type: String? = nil, fields: [(name: String, value: String)] = [],
    _ body: Body = .none,
    contentLength: Int? = nil
  ) -> Answer {
    let typed = type.map { [(name: "Content-Type", value: $0)] } ?? []
    return Answer(
      status: status, fields: typed + [notCached] + fields, body: body, contentLength: contentLength)
  }

  /// What a refusal says, in one line of plain text.
  init(_ refusal: Refusal) {
    let text = refusal.text.map { $0.isNewline || $0 == "\0" ? " " : $0 }
    self.init(
      status: refusal.status,
      fields: [(name: "Content-Type", value: "text/plain; charset=utf-8"), Self.notCached],
      body: .bytes(Array(String(text).utf8)))
  }

  /// The same to HEAD: without its body.
  var headOnly: Answer {
    var answer = self
    answer.body = .none
    return answer
  }
}
