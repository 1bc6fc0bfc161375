import BorgFormat
import ObjectRepository
import Session

/// Answers to requests that succeed: `{"i": id, "r": result}`.
extension RPCCall {
  /// `capacity`: about how many bytes the result has.
  func reply(reserving capacity: Int = 64, _ result: (inout MessagePackWriter) -> Void) -> Answer {
    var writer = beginReply(reserving: capacity)
    result(&writer)
    return .bytes(writer.bytes)
  }

  func reply(_ content: ObjectRepository.Content) -> Answer {
    switch content {
    case .bytes(let bytes): return reply(reserving: bytes.count) { $0.binary(bytes) }
    case .object(let object, let count):
      var writer = beginReply()
      writer.binaryHead(length: count)
      return .stream(head: writer.bytes, object: object, count: count)
    }
  }

  /// An answer up to its result, which is to be appended.
  func beginReply(reserving capacity: Int = 16) -> MessagePackWriter {
    var writer = MessagePackWriter(reserving: capacity + 16)
    writer.map(count: 2)
    writer.string("i")
    writer.raw(request.id.encoded)
    writer.string("r")
    return writer
  }
}
