/// The request line and header of an HTTP request, parsed and within limits, its body not yet looked at.
///
/// Any transport makes it: the loop upon standard input and output from bytes, a network server from its own parser.
public struct RequestHead: Sendable {
  public enum Method: Equatable, Sendable {
    case get, head, post, delete
    /// Answered with 501 and nothing else.
    case other(String)
  }

  public var method: Method
  /// The path of the request's target without query and fragment, as sent: bytes are not percent-decoded.
  public var path: String
  /// The text between `?` and `#`, still encoded; empty if there is none.
  public var query: String
  /// Names in lower case, in the order sent; a name may come more than once.
  public var fields: [(name: String, value: String)]
  /// Bytes of the body: the value of `Content-Length`, 0 without one.
  public var contentLength: Int

  public init(
    method: Method, path: String, query: String = "", fields: [(name: String, value: String)] = [],
    contentLength: Int = 0
  ) {
    (self.method, self.path, self.query) = (method, path, query)
    (self.fields, self.contentLength) = (fields, contentLength)
  }

  /// The value of the only field with this name in lower case, nil if there is none. Of several the last counts.
  public func value(_ name: String) -> String? { fields.last { $0.name == name }?.value }
}
