//! TLS as nobody speaks it any more.

/// A ClientHello as TLS 1.1 (version 3.2) has it: no extensions.
pub(crate) fn tls_1_1_hello() -> Vec<u8> {
    let suites = [0x00, 0x2f, 0xc0, 0x13];
    let body = [&[3, 2], [0x5a; 32].as_slice(), &[0], &[0, 4], &suites, &[1, 0]].concat();
    let length = u8::try_from(body.len()).unwrap();
    let handshake = [&[1, 0, 0, length], body.as_slice()].concat();
    [&[22, 3, 1, 0, length + 4], handshake.as_slice()].concat()
}
