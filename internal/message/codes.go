package message

// The media types and transfer encodings that have a number in the encoding of a
// Summary. The numbers are stored: do not reorder or remove, add at the end.
// Number 0 is what is not given.
var mediaTypes = [...]string{
	"",
	"text/plain",
	"text/html",
	"multipart/alternative",
	"multipart/mixed",
	"multipart/related",
	"multipart/report",
	"multipart/signed",
	"multipart/encrypted",
	"multipart/digest",
	"multipart/form-data",
	"message/rfc822",
	"message/global",
	"message/delivery-status",
	"message/disposition-notification",
	"message/external-body",
	"message/partial",
	"text/rfc822-headers",
	"text/calendar",
	"text/csv",
	"text/markdown",
	"text/x-amp-html",
	"text/vcard",
	"text/enriched",
	"application/octet-stream",
	"application/pdf",
	"application/zip",
	"application/json",
	"application/xml",
	"application/gzip",
	"application/rtf",
	"application/ics",
	"application/msword",
	"application/ms-tnef",
	"application/pgp-signature",
	"application/pgp-encrypted",
	"application/pgp-keys",
	"application/pkcs7-mime",
	"application/pkcs7-signature",
	"application/x-pkcs7-signature",
	"application/vnd.ms-excel",
	"application/vnd.openxmlformats-officedocument.wordprocessingml.document",
	"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
	"application/vnd.openxmlformats-officedocument.presentationml.presentation",
	"image/png",
	"image/jpeg",
	"image/gif",
	"image/svg+xml",
	"image/webp",
	"audio/mpeg",
	"video/mp4",
}

var encodings = [...]string{"", "7bit", "8bit", "binary", "base64", "quoted-printable"}

// codeOf returns a string's number in list; ok is false if it has none.
func codeOf(list []string, s string) (code uint64, ok bool) {
	for i := range list {
		if list[i] == s {
			return uint64(i), true
		}
	}
	return 0, false
}
