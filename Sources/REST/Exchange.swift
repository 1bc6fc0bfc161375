/// One request on its way to its answer. Not thread-safe: one thread at a time drives it, and may block in each call.
///
/// The transport calls `receive` for each piece of the body and then `finish`, or `abandon` if the body ends early. An
/// exchange whose answer is known from the head alone (a refusal, say) takes the body all the same and drops it, so that
/// the stream stays in step.
public protocol Exchange: AnyObject, Sendable {
  /// Takes the next bytes of the body.
  func receive(_ bytes: [UInt8], _ range: Range<Int>)

  /// Executes what is left to do, and answers.
  func finish() -> Answer

  /// Gives the request up; nothing of it is stored.
  func abandon()
}
