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
    case pieces([Piece])
  }

  /// A part of an object.
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
