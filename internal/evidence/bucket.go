package evidence

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
)

// BucketOptions are a bucket of S3, or of a server with its API.
type BucketOptions struct {
	Name     string `yaml:"name"`
	Prefix   string `yaml:"prefix"` // evidence/
	Region   string `yaml:"region"`
	Endpoint string `yaml:"endpoint"` // of another server than Amazon's
	// PathStyle names the bucket in paths and not in the host's name.
	PathStyle bool `yaml:"path_style"`
	// AccessKeyFile and SecretKeyFile hold a key. Without them it is what the machine, its environment or its role gives.
	AccessKeyFile string `yaml:"access_key_file"`
	SecretKeyFile string `yaml:"secret_key_file"`
}

var (
	bucketName   = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	bucketPrefix = regexp.MustCompile(`^([A-Za-z0-9_-][A-Za-z0-9_.-]*/)*$`)
)

// Check says what can't be right.
func (o *BucketOptions) Check() error {
	switch {
	case !bucketName.MatchString(o.Name):
		return fmt.Errorf("name: %q is no name of a bucket", o.Name)
	case len(o.Prefix) > 512 || !bucketPrefix.MatchString(o.Prefix):
		return fmt.Errorf("prefix: %q: want letters, digits, _, - and ., and a slash at its end", o.Prefix)
	case o.Region == "":
		return errors.New("region: is missing; servers that have none take us-east-1")
	case (o.AccessKeyFile == "") != (o.SecretKeyFile == ""):
		return errors.New("access_key_file and secret_key_file: want both or neither")
	case o.Endpoint == "":
		return nil
	}
	u, err := url.Parse(o.Endpoint)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("endpoint: %q is no URL of the form https://host", o.Endpoint)
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme != "https" && !(u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback())) {
		return fmt.Errorf("endpoint: %q: want https, because evidence travels on it", o.Endpoint)
	}
	return nil
}

// bucketTime is the most that one try of a request may take.
const bucketTime = 2 * time.Minute

// bucket is a shelf on S3. An object that is there is never written again.
type bucket struct {
	client *s3.Client
	o      BucketOptions
}

// OpenBucket opens the vault in a bucket that exists, and refuses one whose server would overwrite what is sealed.
func OpenBucket(ctx context.Context, o BucketOptions) (*Vault, error) {
	b, err := newBucket(ctx, o)
	if err == nil {
		err = b.probe(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("open vault in bucket %s: %w", o.Name, err)
	}
	return &Vault{b}, nil
}

func newBucket(ctx context.Context, o BucketOptions) (*bucket, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	options := []func(*config.LoadOptions) error{
		config.WithRegion(o.Region), config.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(bucketTime)),
	}
	if o.AccessKeyFile != "" {
		options = append(options, config.WithCredentialsProvider(aws.NewCredentialsCache(aws.CredentialsProviderFunc(o.key))))
	}
	c, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, err
	}
	client := s3.NewFromConfig(c, func(s *s3.Options) {
		s.UsePathStyle = o.PathStyle
		s.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired // the vault hashes what it reads
		if o.Endpoint != "" {
			s.BaseEndpoint = &o.Endpoint
		}
	})
	return &bucket{client, o}, nil
}

// keyLife is how long a key is used before its files are read again.
const keyLife = time.Minute

func (o *BucketOptions) key(context.Context) (k aws.Credentials, err error) {
	k = aws.Credentials{CanExpire: true, Expires: time.Now().Add(keyLife), Source: "files"}
	if k.AccessKeyID, err = readKey(o.AccessKeyFile); err != nil {
		return k, err
	}
	k.SecretAccessKey, err = readKey(o.SecretKeyFile)
	return k, err
}

func readKey(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 4<<10))
	if err != nil {
		return "", err
	}
	if key := strings.TrimSpace(string(text)); key != "" {
		return key, nil
	}
	return "", fmt.Errorf("%s is empty", file)
}

func (b *bucket) close() error { return nil }

// probe writes one object twice. There are servers that take the condition and overwrite all the same.
func (b *bucket) probe(ctx context.Context) error {
	const text = "Artefacts of Tocsin, each under its SHA-256.\n"
	var err error
	for range 2 {
		if err = b.write(ctx, "README", []byte(text), sum([]byte(text))); err != nil && !errors.Is(err, errSealed) {
			return err
		}
	}
	if err == nil {
		return errors.New("its server overwrites an object that is there (If-None-Match), so that evidence would not be safe in it")
	}
	return nil
}

// put asks what is there whenever a write failed: a server may refuse an object that it has before it read the body, and then its answer can be lost with the connection.
func (b *bucket) put(ctx context.Context, hash string, data []byte) error {
	failed := b.write(ctx, hash, data, hash)
	if failed == nil {
		return nil
	}
	there, err := b.get(ctx, hash)
	switch {
	case err != nil && errors.Is(failed, errSealed):
		return err
	case err != nil:
		return failed
	case sum(there) != hash:
		return fmt.Errorf("%w, and an object of a bucket is not written again", ErrCorrupt)
	}
	return nil
}

// errSealed says that there is an object of that name.
var errSealed = errors.New("there is such an object")

// write makes an object, if there is none, of bytes whose SHA-256 the server checks: it appears whole or not at all.
func (b *bucket) write(ctx context.Context, name string, data []byte, hash string) error {
	raw, err := hex.DecodeString(hash)
	if err != nil {
		return err
	}
	_, err = b.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &b.o.Name, Key: aws.String(b.o.Prefix + name), Body: bytes.NewReader(data), ContentLength: aws.Int64(int64(len(data))),
		IfNoneMatch: aws.String("*"), ChecksumSHA256: aws.String(base64.StdEncoding.EncodeToString(raw)),
	})
	if failed := smithy.APIError(nil); errors.As(err, &failed) && failed.ErrorCode() == "PreconditionFailed" {
		return errSealed
	}
	return err
}

func (b *bucket) get(ctx context.Context, hash string) ([]byte, error) {
	out, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.o.Name, Key: aws.String(b.o.Prefix + hash)})
	if failed := smithy.APIError(nil); errors.As(err, &failed) && failed.ErrorCode() == "NoSuchKey" {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	defer out.Body.Close()
	return io.ReadAll(io.LimitReader(out.Body, MaxBytes+1))
}
